//! The least that a server can do: to each query, and each Sync, the same answer. What a hit of the result cache is measured against
//! (`benches/cache.py`): the same runtime (one worker), sockets and buffers, and nothing that looks at a statement.
//!
//! `responder PORT`

use bulkhead::session::socket::Client;
use bulkhead::wire::backend::{self as reply, TransactionStatus};
use bulkhead::wire::frame;
use bytes::{Buf, BytesMut};
use tokio::net::TcpListener;

/// One row of one integer, as the select of `benches/run.py` brings it.
fn answer() -> BytesMut {
    let mut out = BytesMut::new();
    frame::write(&mut out, b'T', |out| {
        out.extend_from_slice(b"\0\x01abalance\0\0\0\0\0\0\x04\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0")
    });
    frame::write(&mut out, b'D', |out| out.extend_from_slice(b"\0\x01\0\0\0\x011"));
    reply::put_command_complete(&mut out, "SELECT 1");
    reply::put_ready(&mut out, TransactionStatus::Idle);
    out
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let port: u16 = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("a port");
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("listen");
    loop {
        let (socket, _) = listener.accept().await.expect("accept");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        tokio::spawn(serve(Client::new(socket)));
    }
}

async fn serve(mut client: Client) {
    let answer = answer();
    // The startup message has no tag.
    while client.inbox.len() < 8 || client.inbox.len() < u32::from_be_bytes([0, 0, client.inbox[2], client.inbox[3]]) as usize {
        if !matches!(client.fill().await, Ok(1..)) {
            return;
        }
    }
    client.inbox.clear();
    frame::write(&mut client.outbox, b'R', |out| out.extend_from_slice(&[0; 4]));
    reply::put_ready(&mut client.outbox, TransactionStatus::Idle);
    loop {
        if client.flush().await.is_err() || !matches!(client.fill().await, Ok(1..)) {
            return;
        }
        while let Ok(Some(header)) = frame::peek(&client.inbox, 1 << 20) {
            if client.inbox.len() < header.frame() {
                break;
            }
            client.inbox.advance(header.frame());
            match header.tag {
                b'Q' | b'S' => client.outbox.extend_from_slice(&answer),
                b'X' => return,
                _ => {}
            }
        }
    }
}
