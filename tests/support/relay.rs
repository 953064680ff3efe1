//! An address that servers take over from one another, as a virtual IP or a name does when one fails.

use std::io::{self, Read, Write};
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
        Relay::with(to, pass)
    }

    /// As a pooler: clients are told a process of its own, and no server's.
    pub fn disguised(to: u16) -> Relay {
        Relay::with(to, pass_disguised)
    }

    /// `answers`: passes on what the server sends.
    fn with(to: u16, answers: fn(&TcpStream, &TcpStream)) -> Relay {
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
                answers(&server, &client);
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

fn pass_disguised(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            // BackendKeyData.
            const BEGIN: &[u8] = b"K\0\0\0\x0c";
            if let Some(at) = bytes[..length].windows(BEGIN.len()).position(|b| b == BEGIN) {
                bytes[at + BEGIN.len()..at + BEGIN.len() + 4].copy_from_slice(&77_007_700_u32.to_be_bytes());
            }
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
