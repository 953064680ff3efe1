//! A client's socket with its two buffers, driven by polling so that one task serves both sides.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How much one read may bring, bytes.
const READ: usize = 8 << 10;
/// Buffers that grew beyond this are given back when they are empty, bytes.
const KEEP: usize = 64 << 10;

/// The stream to a client. TLS is boxed: plain sessions must not carry its size.
#[derive(Debug)]
pub enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    pub fn is_tls(&self) -> bool {
        matches!(self, Socket::Tls(_))
    }

    /// Where the client is, as far as that is known.
    pub fn peer(&self) -> String {
        self.stream().peer_addr().map_or_else(|_| "unknown".to_owned(), |address| address.to_string())
    }

    /// The same, without its port.
    pub fn address(&self) -> Option<IpAddr> {
        self.stream().peer_addr().ok().map(|address| address.ip())
    }

    fn stream(&self) -> &TcpStream {
        match self {
            Socket::Plain(stream) => stream,
            Socket::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Socket::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Socket::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_flush(cx),
            Socket::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Socket::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

thread_local! {
    /// What sessions at rest have given back: those that are asked next take it, so that a session that is asked one thing after the
    /// other allocates nothing for that.
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// How many are kept in each thread, of 8 KiB each.
const SPARES: usize = 32;

/// Reads once into `buffer`. `Ok(0)` is the end of the stream.
pub fn poll_fill(stream: &mut Socket, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if let Socket::Plain(stream) = stream
        && buffer.capacity() - buffer.len() < READ
    {
        // Room is made only when there is something to read.
        ready!(stream.poll_read_ready(cx))?;
    }
    if buffer.capacity() == 0
        && let Some(spare) = SPARE.with_borrow_mut(Vec::pop)
    {
        *buffer = spare;
    }
    buffer.reserve(READ);
    let future = tokio::io::AsyncReadExt::read_buf(stream, buffer);
    tokio::pin!(future);
    // Dropping it when it is pending is safe: it has taken nothing from the stream.
    future.poll(cx)
}

/// Writes all of `buffer`, then flushes (TLS).
pub fn poll_drain<S: AsyncWrite + Unpin>(stream: &mut S, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !buffer.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, buffer))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        buffer.advance(written);
    }
    ready!(Pin::new(stream).poll_flush(cx))?;
    shrink(buffer);
    Poll::Ready(Ok(()))
}

/// Gives back a large buffer that is empty, so that one big message does not stay in memory for the life of a session.
pub fn shrink(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > KEEP {
        *buffer = BytesMut::new();
    }
}

/// One client's socket and buffers.
#[derive(Debug)]
pub struct Client {
    pub socket: Socket,
    /// What came and was not handled yet.
    pub inbox: BytesMut,
    /// What is to be sent.
    pub outbox: BytesMut,
}

impl Client {
    pub fn new(socket: TcpStream) -> Self {
        Client { socket: Socket::Plain(socket), inbox: BytesMut::new(), outbox: BytesMut::new() }
    }

    /// Reads once. `Ok(0)` is the end of the stream.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| poll_fill(&mut self.socket, &mut self.inbox, cx)).await
    }

    /// Writes all that is to be sent.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| poll_drain(&mut self.socket, &mut self.outbox, cx)).await
    }

    /// Gives the memory of empty buffers back: a time of idleness begins.
    pub fn rest(&mut self) {
        for buffer in [&mut self.inbox, &mut self.outbox] {
            if buffer.is_empty() && buffer.capacity() > 0 {
                let mut buffer = std::mem::take(buffer);
                // What was read is behind its beginning now: all of its room, where nobody else has a part of it.
                if buffer.try_reclaim(READ) && buffer.capacity() <= 2 * READ {
                    SPARE.with_borrow_mut(|spare| {
                        if spare.len() < SPARES {
                            spare.push(buffer)
                        }
                    });
                }
            }
        }
    }

    /// Writes what is to be sent and closes, as far as the peer lets us; errors no longer matter.
    pub async fn close(mut self) {
        let _ = self.flush().await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut self.socket).await;
    }
}
