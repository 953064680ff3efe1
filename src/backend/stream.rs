//! Byte streams to a server: TCP, a Unix socket, or TLS.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ConnectError;
use crate::config::{SslMode, Upstream};
use crate::wire::startup;

/// A byte stream to a server.
#[derive(Debug)]
pub enum Stream {
    Tcp(Roaming<TcpStream>),
    Unix(Roaming<UnixStream>),
    Tls(Box<TlsStream<Roaming<TcpStream>>>),
}

/// A socket that can leave the reactor of one thread for that of another. `None`: it was lost on the way.
#[derive(Debug)]
pub struct Roaming<S>(Option<S>);

impl<S> Roaming<S> {
    /// Registers it with the reactor of the runtime that calls.
    fn register_here<T>(&mut self, leave: fn(S) -> io::Result<T>, enter: fn(T) -> io::Result<S>) -> io::Result<()> {
        self.0 = Some(enter(leave(self.0.take().ok_or(io::ErrorKind::NotConnected)?)?)?);
        Ok(())
    }

    fn socket(self: Pin<&mut Self>) -> io::Result<Pin<&mut S>>
    where
        S: Unpin,
    {
        self.get_mut().0.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Roaming<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Roaming<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(cx)
    }
}

/// What waits in the kernel for an idle stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Nothing,
    Input,
    /// Closed, or broken.
    End,
}

impl Stream {
    /// Asks the kernel, not the reactor, which may not have seen the news yet. Costs one system call.
    pub fn waiting(&self) -> Waiting {
        let mut byte = [MaybeUninit::uninit()];
        let socket = match self {
            Stream::Tcp(stream) => stream.0.as_ref().map(SockRef::from),
            Stream::Unix(stream) => stream.0.as_ref().map(SockRef::from),
            Stream::Tls(stream) => stream.get_ref().0.0.as_ref().map(SockRef::from),
        };
        match socket.map_or(Ok(0), |socket| socket.peek(&mut byte)) {
            Ok(0) => Waiting::End,
            Ok(_) => Waiting::Input,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Waiting::Nothing,
            Err(_) => Waiting::End,
        }
    }

    /// From now on the runtime that calls tells when something can be read or written. Costs two system calls.
    ///
    /// # Errors
    /// The stream is lost.
    pub fn register_here(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.register_here(TcpStream::into_std, TcpStream::from_std),
            Stream::Unix(stream) => stream.register_here(UnixStream::into_std, UnixStream::from_std),
            Stream::Tls(stream) => stream.get_mut().0.register_here(TcpStream::into_std, TcpStream::from_std),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Where a stream ended up: a cancel must go to the same server, which the name may no longer give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Opens streams to one upstream. Certificates are read once, here, and shared by all its connections.
pub struct Dialer {
    upstream: Upstream,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialer({:?})", self.upstream)
    }
}

impl Dialer {
    /// A host that begins with `/` is the directory of a Unix socket, over which, as in libpq, TLS is not used.
    ///
    /// # Errors
    /// The authorities' certificates cannot be read, or the host is no name that a certificate can have.
    pub fn new(upstream: Upstream) -> Result<Self, ConnectError> {
        let tls = if upstream.host.starts_with('/') {
            None
        } else {
            match tls_config(&upstream)? {
                None => None,
                Some(config) => {
                    let name = ServerName::try_from(upstream.host.clone())
                        .map_err(|_| ConnectError::Tls(format!("{:?} is not a host name", upstream.host)))?;
                    Some((TlsConnector::from(Arc::new(config)), name))
                }
            }
        };
        Ok(Dialer { upstream, tls })
    }

    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Opens a stream, with TLS where the upstream asks for it.
    ///
    /// # Errors
    /// Unreachable; TLS refused by the server or its certificate not good enough.
    pub async fn dial(&self) -> Result<(Stream, Address), ConnectError> {
        if self.upstream.host.starts_with('/') {
            let path = Path::new(&self.upstream.host).join(format!(".s.PGSQL.{}", self.upstream.port));
            let address = Address::Unix(path);
            return Ok((self.dial_at(&address).await?, address));
        }
        let stream = TcpStream::connect((self.upstream.host.as_str(), self.upstream.port)).await?;
        let address = Address::Tcp(stream.peer_addr()?);
        Ok((self.set_up(stream).await?, address))
    }

    /// As [`Dialer::dial`], to an address that it gave before.
    ///
    /// # Errors
    /// As [`Dialer::dial`].
    pub async fn dial_at(&self, address: &Address) -> Result<Stream, ConnectError> {
        match address {
            Address::Unix(path) => Ok(Stream::Unix(Roaming(Some(UnixStream::connect(path).await?)))),
            Address::Tcp(address) => self.set_up(TcpStream::connect(address).await?).await,
        }
    }

    async fn set_up(&self, stream: TcpStream) -> Result<Stream, ConnectError> {
        stream.set_nodelay(true)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60));
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        match &self.tls {
            None => Ok(Stream::Tcp(Roaming(Some(stream)))),
            Some((connector, name)) => start_tls(stream, connector, name.clone()).await,
        }
    }
}

/// SSLRequest, one byte of answer, handshake.
async fn start_tls(mut stream: TcpStream, connector: &TlsConnector, name: ServerName<'static>) -> Result<Stream, ConnectError> {
    let mut request = BytesMut::new();
    startup::put_ssl_request(&mut request);
    stream.write_all(&request).await?;
    // Room for more than the one byte: what follows it in plain text was not sent by an honest server (CVE-2021-23222).
    let mut answer = [0; 16];
    match (stream.read(&mut answer).await?, answer[0]) {
        (1, b'S') => {}
        (0, _) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        (1, b'N') => return Err(ConnectError::Tls("the server does not support TLS, but sslmode requires it".into())),
        // An ErrorResponse here is not authenticated: its text is not passed on (CVE-2024-10977).
        (_, b'E') => return Err(ConnectError::Tls("the server answered the request for TLS with an error".into())),
        (_, _) => return Err(ConnectError::Tls("unexpected bytes from the server before the TLS handshake".into())),
    }
    let tls = connector.connect(name, Roaming(Some(stream))).await.map_err(|error| ConnectError::Tls(error.to_string()))?;
    Ok(Stream::Tls(Box::new(tls)))
}

/// `None`: sslmode=disable.
fn tls_config(upstream: &Upstream) -> Result<Option<ClientConfig>, ConnectError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Tls(error.to_string()))?;
    let lax = |roots| {
        let verifier = Arc::new(LaxVerifier { roots, provider: provider.clone() });
        builder.clone().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    let config = match (upstream.ssl_mode, &upstream.ssl_root_cert) {
        (SslMode::Disable, _) => return Ok(None),
        (SslMode::Require, None) => lax(None),
        // As in libpq: with a root certificate, require means verify-ca.
        (SslMode::Require | SslMode::VerifyCa, path) => lax(Some(roots(path.as_deref())?)),
        (SslMode::VerifyFull, path) => builder.clone().with_root_certificates(roots(path.as_deref())?).with_no_client_auth(),
    };
    Ok(Some(config))
}

/// The authorities of a PEM file, or the system's.
fn roots(path: Option<&Path>) -> Result<RootCertStore, ConnectError> {
    let mut store = RootCertStore::empty();
    match path {
        Some(path) => {
            let problem = |error: &dyn std::fmt::Display| ConnectError::Tls(format!("{}: {error}", path.display()));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| problem(&e))? {
                store.add(certificate.map_err(|e| problem(&e))?).map_err(|e| problem(&e))?;
            }
        }
        None => {
            // The system's collection may hold certificates that rustls does not take: the others count.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(ConnectError::Tls("no certificates of authorities were found".into()));
    }
    Ok(store)
}

/// sslmode `require` (no `roots`: any certificate) and `verify-ca` (any name). The handshake's signature is always checked.
#[derive(Debug)]
struct LaxVerifier {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for LaxVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = rustls::server::ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            rustls::client::verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// A stream whose reactor has gone wakes nobody: it is read after that, and before anything has come.
    async fn speaks_here(mut stream: Stream, mut peer: impl std::io::Write + Send + 'static) {
        stream.register_here().unwrap();
        let mut answer = [0; 5];
        let reading = stream.read_exact(&mut answer);
        let writing = tokio::task::spawn_blocking(move || {
            peer.write_all(b"hello").unwrap();
            peer
        });
        tokio::time::timeout(Duration::from_secs(10), reading).await.unwrap().unwrap();
        assert_eq!(&answer, b"hello");
        let _open = writing.await.unwrap();
        stream.write_all(b"bye").await.unwrap();
    }

    #[test]
    fn a_stream_goes_on_where_it_was_moved() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (first, second) = (runtime(), runtime());
        let tcp = first.block_on(async { Stream::Tcp(Roaming(Some(TcpStream::connect(address).await.unwrap()))) });
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let unix = first.block_on(async { Stream::Unix(Roaming(Some(UnixStream::from_std(one).unwrap()))) });
        drop(first);
        second.block_on(speaks_here(tcp, listener.accept().unwrap().0));
        second.block_on(speaks_here(unix, other));
    }

    #[test]
    fn a_stream_that_was_lost_on_the_way_has_ended() {
        let mut lost = Stream::Tcp(Roaming(None));
        assert_eq!(lost.waiting(), Waiting::End);
        assert!(lost.register_here().is_err());
        assert!(runtime().block_on(lost.read_u8()).is_err());
    }
}
