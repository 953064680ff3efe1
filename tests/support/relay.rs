//! An address that servers take over from one another, as a virtual IP or a name does when one fails.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Listens on a port of its own and passes bytes on. Ends with the process.
pub struct Relay {
    pub port: u16,
    passed: Arc<Mutex<Passed>>,
}

struct Passed {
    to: u16,
    open: Vec<TcpStream>,
}

impl Relay {
    pub fn start(to: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let passed = Arc::new(Mutex::new(Passed { to, open: vec![] }));
        let shared = Arc::clone(&passed);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let mut passed = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let Ok(server) = TcpStream::connect(("127.0.0.1", passed.to)) else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("TCP_NODELAY");
                    passed.open.push(stream.try_clone().expect("one more descriptor"));
                }
                pass(&client, &server);
                pass(&server, &client);
            }
        });
        Relay { port, passed }
    }

    /// Another server has the address from now on; nobody keeps a connection.
    pub fn switch(&self, to: u16) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.to = to;
        for stream in passed.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn pass(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
