//! SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding: both sides, and verifiers as PostgreSQL stores them.
//!
//! Own state machines and not pgwire's: its server compares with `==` and its client returns no keys. Each step consumes the
//! state, so that no step can be repeated or left out.

use std::collections::HashMap;
use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use rand::RngCore;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{SqlError, sqlstate};

/// The name of the mechanism.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Iterations of new verifiers: PostgreSQL's default.
pub const ITERATIONS: u32 = 4096;

/// More iterations than this are not computed for a server that asks for them, nor read from a verifier.
pub const MAX_ITERATIONS: u32 = 10_000_000;

const SALT_LENGTH: usize = 16;
const NONCE_LENGTH: usize = 18;

type Key = [u8; 32];

/// What a server keeps of a password: enough to check it, not to log in with it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Key,
    server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(***)")
    }
}

impl Verifier {
    /// From a password with a fresh salt. Costs [`ITERATIONS`] hashes: at logins, the time would tell known users from unknown ones.
    pub fn derive(password: &str) -> Self {
        let mut salt = [0; SALT_LENGTH];
        rand::rng().fill_bytes(&mut salt);
        Self::derive_with(password, &salt, ITERATIONS)
    }

    /// From a password, as a server with this salt and these iterations would.
    pub fn derive_with(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted_password(password, salt, iterations);
        let stored_key = sha256(&hmac(&salted, &[b"Client Key"]));
        Verifier { iterations, salt: salt.to_vec(), stored_key, server_key: hmac(&salted, &[b"Server Key"]) }
    }

    /// Reads `SCRAM-SHA-256$iterations:salt$stored:server`, as in pg_authid.rolpassword. `None`: it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (iterations, rest) = text.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations = iterations.parse().ok().filter(|i| (1..=MAX_ITERATIONS).contains(i))?;
        let salt = BASE64.decode(salt).ok().filter(|salt| !salt.is_empty())?;
        let key = |text: &str| Key::try_from(BASE64.decode(text).ok()?).ok();
        Some(Verifier { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    /// As PostgreSQL stores it; a secret.
    pub fn to_text(&self) -> String {
        let (salt, stored, server) = (BASE64.encode(&self.salt), BASE64.encode(self.stored_key), BASE64.encode(self.server_key));
        format!("SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }

    /// A verifier for a user that does not exist: no password fits it, and the same user gets the same salt each time, so
    /// that asking twice tells nothing. `secret`: random, the same for the life of the process.
    fn mock(user: &str, secret: &[u8]) -> Self {
        let salt = hmac(secret, &[b"salt", user.as_bytes()])[..SALT_LENGTH].to_vec();
        let (mut stored_key, mut server_key) = ([0; 32], [0; 32]);
        rand::rng().fill_bytes(&mut stored_key);
        rand::rng().fill_bytes(&mut server_key);
        Verifier { iterations: ITERATIONS, salt, stored_key, server_key }
    }
}

/// The server's side, after it has sent its first message.
#[derive(Debug)]
pub struct Server {
    verifier: Verifier,
    known: subtle::Choice,
    user: String,
    gs2_header: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

impl Server {
    /// Takes the client's first message; returns the state and the server's first message. `verifier`: `None` for a user that
    /// does not exist, who is refused at the end like one with a wrong password. The user name inside the message is not
    /// used, as in PostgreSQL: the startup packet's counts.
    ///
    /// # Errors
    /// FATAL 08P01: the message is not SCRAM's. 0A000: it asks for channel binding, which was not offered.
    pub fn start(
        user: &str,
        verifier: Option<&Verifier>,
        mock_secret: &[u8],
        client_first: &str,
    ) -> Result<(Self, String), SqlError> {
        Self::start_with_nonce(user, verifier, mock_secret, client_first, &nonce())
    }

    fn start_with_nonce(
        user: &str,
        verifier: Option<&Verifier>,
        mock_secret: &[u8],
        client_first: &str,
        server_nonce: &str,
    ) -> Result<(Self, String), SqlError> {
        let (gs2_header, bare) = split_gs2(client_first)?;
        let client_nonce = client_nonce(bare)?;
        let mock = Verifier::mock(user, mock_secret);
        let known = subtle::Choice::from(u8::from(verifier.is_some()));
        let verifier = verifier.cloned().unwrap_or(mock);
        let nonce = format!("{client_nonce}{server_nonce}");
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let state = Server {
            verifier,
            known,
            user: user.to_owned(),
            gs2_header: gs2_header.to_owned(),
            nonce,
            client_first_bare: bare.to_owned(),
            server_first: server_first.clone(),
        };
        Ok((state, server_first))
    }

    /// Takes the client's last message; returns the server's last, which proves that the server knows the verifier.
    ///
    /// # Errors
    /// FATAL 28P01: the proof is wrong, or the user does not exist. FATAL 08P01: the message is not SCRAM's.
    pub fn finish(self, client_final: &str) -> Result<String, SqlError> {
        let (without_proof, proof) = client_final.rsplit_once(",p=").ok_or_else(malformed)?;
        let mut attributes = without_proof.splitn(3, ',');
        let binding = attributes.next().and_then(|a| a.strip_prefix("c=")).ok_or_else(malformed)?;
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or_else(malformed)?;
        if BASE64.decode(binding).ok().as_deref() != Some(self.gs2_header.as_bytes()) {
            return Err(SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "unexpected SCRAM channel-binding attribute"));
        }
        if !bool::from(nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "invalid SCRAM response: nonce does not match"));
        }
        let proof: Key = BASE64.decode(proof).ok().and_then(|p| p.try_into().ok()).ok_or_else(malformed)?;
        let message = [self.client_first_bare.as_bytes(), b",", self.server_first.as_bytes(), b",", without_proof.as_bytes()];
        let client_key = xor(&proof, &hmac(&self.verifier.stored_key, &message));
        let right = sha256(&client_key).ct_eq(&self.verifier.stored_key) & self.known;
        if !bool::from(right) {
            let text = format!("password authentication failed for user \"{}\"", self.user);
            return Err(SqlError::fatal(sqlstate::INVALID_PASSWORD, text));
        }
        Ok(format!("v={}", BASE64.encode(hmac(&self.verifier.server_key, &message))))
    }
}

/// Splits `n,,` or `y,,` (or with `a=..` between the commas) from the rest.
fn split_gs2(client_first: &str) -> Result<(&str, &str), SqlError> {
    match client_first.as_bytes().first() {
        // y: the client could bind channels, but was not offered it.
        Some(b'n' | b'y') => {}
        Some(b'p') => {
            let text = "client selected SCRAM channel binding, which the server does not offer";
            return Err(SqlError::fatal(sqlstate::FEATURE_NOT_SUPPORTED, text));
        }
        Some(_) | None => return Err(malformed()),
    }
    let commas: Vec<usize> = client_first.match_indices(',').map(|(i, _)| i).take(2).collect();
    let [1, second] = commas[..] else { return Err(malformed()) };
    if second != 2 {
        // An authorization identity: to act for another user is not supported, as in PostgreSQL.
        return Err(SqlError::fatal(
            sqlstate::FEATURE_NOT_SUPPORTED,
            "client uses authorization identity, but it is not supported",
        ));
    }
    Ok(client_first.split_at(second + 1))
}

/// The nonce of `n=user,r=nonce[,extensions]`.
fn client_nonce(bare: &str) -> Result<&str, SqlError> {
    let mut attributes = bare.split(',');
    let name = attributes.next().unwrap_or_default();
    if name.starts_with("m=") {
        return Err(SqlError::fatal(sqlstate::FEATURE_NOT_SUPPORTED, "client requires an unsupported SCRAM extension"));
    }
    if !name.starts_with("n=") {
        return Err(malformed());
    }
    let nonce = attributes.next().and_then(|a| a.strip_prefix("r=")).ok_or_else(malformed)?;
    let printable = !nonce.is_empty() && nonce.bytes().all(|b| b.is_ascii_graphic());
    if printable { Ok(nonce) } else { Err(malformed()) }
}

fn malformed() -> SqlError {
    SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "malformed SCRAM message")
}

/// The client's side, before anything was received.
#[derive(Debug)]
pub struct Client {
    nonce: String,
}

/// The client's side, waiting for the server's proof.
pub struct ClientFinal {
    server_signature: Key,
}

impl fmt::Debug for ClientFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientFinal(***)")
    }
}

impl Client {
    /// The state and the client's first message.
    pub fn start() -> (Self, String) {
        Self::start_with_nonce(nonce())
    }

    fn start_with_nonce(nonce: String) -> (Self, String) {
        let first = format!("n,,n=,r={nonce}");
        (Client { nonce }, first)
    }

    /// Takes the server's first message; returns the state and the client's last message. Costs as many hashes as the server
    /// asks for: not for the reactor.
    ///
    /// # Errors
    /// 08P01: the message is not SCRAM's, does not continue our nonce, or asks for more than [`MAX_ITERATIONS`].
    pub fn answer(self, password: &str, server_first: &str) -> Result<(ClientFinal, String), SqlError> {
        let mut attributes = server_first.split(',');
        let mut next = |name: &str| attributes.next().and_then(|a| a.strip_prefix(name)).ok_or_else(malformed);
        let (nonce, salt, iterations) = (next("r=")?, next("s=")?, next("i=")?);
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, "invalid SCRAM response: nonce does not match"));
        }
        let salt = BASE64.decode(salt).map_err(|_| malformed())?;
        let iterations = iterations.parse::<u32>().ok().filter(|i| (1..=MAX_ITERATIONS).contains(i)).ok_or_else(malformed)?;
        let salted = known_salted_password(password, &salt, iterations);
        let client_key = hmac(&salted, &[b"Client Key"]);
        let without_proof = format!("c=biws,r={nonce}");
        let bare = format!("n=,r={}", self.nonce);
        let message = [bare.as_bytes(), b",", server_first.as_bytes(), b",", without_proof.as_bytes()];
        let proof = xor(&client_key, &hmac(&sha256(&client_key), &message));
        let server_signature = hmac(&hmac(&salted, &[b"Server Key"]), &message);
        Ok((ClientFinal { server_signature }, format!("{without_proof},p={}", BASE64.encode(proof))))
    }
}

impl ClientFinal {
    /// Checks that the server knows the verifier.
    ///
    /// # Errors
    /// 28P01: it does not: it is another server than it seems.
    pub fn finish(self, server_final: &str) -> Result<(), SqlError> {
        let signature = server_final.split(',').next().and_then(|a| a.strip_prefix("v=")).and_then(|s| BASE64.decode(s).ok());
        let right = signature.is_some_and(|s| bool::from(s.ct_eq(&self.server_signature)));
        if right { Ok(()) } else { Err(SqlError::fatal(sqlstate::INVALID_PASSWORD, "incorrect server signature")) }
    }
}

/// 24 characters of base64.
fn nonce() -> String {
    let mut bytes = [0; NONCE_LENGTH];
    rand::rng().fill_bytes(&mut bytes);
    BASE64.encode(bytes)
}

/// As [`salted_password`], remembered: a server has one salt for a role, and each new connection would go thousands of rounds for
/// the same key.
fn known_salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    /// Roles that are logged in to are few; what changes passwords or salts all the time starts anew.
    const MOST: usize = 64;
    static KNOWN: LazyLock<Mutex<HashMap<Key, Key>>> = LazyLock::new(Mutex::default);
    let of = hmac(password.as_bytes(), &[salt, &iterations.to_be_bytes()]);
    if let Some(key) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&of) {
        return *key;
    }
    let key = salted_password(password, salt, iterations);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(of, key);
    key
}

/// PBKDF2 with one block. A password that SASLprep refuses is used as it is, as in PostgreSQL.
fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Key {
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let keyed = keyed(prepared.as_bytes());
    let mut block: Key = keyed.clone().chain_update(salt).chain_update(1u32.to_be_bytes()).finalize().into_bytes().into();
    let mut result = block;
    for _ in 1..iterations {
        block = keyed.clone().chain_update(block).finalize().into_bytes().into();
        result = xor(&result, &block);
    }
    result
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length; the error type exists for other MACs.
    Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"))
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = keyed(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn sha256(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"process secret";

    /// RFC 7677, section 3.
    #[test]
    fn the_rfc_s_example() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::derive_with("pencil", &salt, 4096);
        let first = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let server_nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let (server, server_first) = Server::start_with_nonce("user", Some(&verifier), SECRET, first, server_nonce).unwrap();
        assert_eq!(server_first, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(server.finish(last).unwrap(), "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    fn exchange(verifier: Option<&Verifier>, password: &str) -> Result<(), SqlError> {
        let (client, first) = Client::start();
        let (server, server_first) = Server::start("app", verifier, SECRET, &first)?;
        let (client, last) = client.answer(password, &server_first)?;
        client.finish(&server.finish(&last)?)
    }

    #[test]
    fn right_and_wrong_passwords() {
        let verifier = Verifier::derive_with("pässword\u{ad}", b"salt salt", 8);
        assert_eq!(exchange(Some(&verifier), "pässword"), Ok(()), "SASLprep drops the soft hyphen");
        let wrong = exchange(Some(&verifier), "password").unwrap_err();
        let unknown = exchange(None, "password").unwrap_err();
        assert_eq!(wrong, unknown, "an unknown user is refused in the same words");
        assert_eq!(wrong.sqlstate, sqlstate::INVALID_PASSWORD);
        assert_eq!(Verifier::parse(&verifier.to_text()), Some(verifier));
    }

    #[test]
    fn an_unknown_user_has_one_salt() {
        let salt = |user: &str| {
            let (_, server_first) = Server::start(user, None, SECRET, "n,,n=,r=abc").unwrap();
            server_first.split(',').nth(1).unwrap().to_owned()
        };
        assert_eq!(salt("nobody"), salt("nobody"));
        assert_ne!(salt("nobody"), salt("somebody"));
    }

    #[test]
    fn a_server_that_does_not_know_the_verifier_is_found_out() {
        let (client, _) = Client::start_with_nonce("abc".into());
        let (client, _) = client.answer("secret", "r=abcdef,s=c2FsdA==,i=1").unwrap();
        assert!(client.finish("v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").is_err());
        for bad in [
            "r=abc,s=c2FsdA==,i=1",
            "r=xbcdef,s=c2FsdA==,i=1",
            "r=abcd,s=!,i=1",
            "r=abcd,s=c2FsdA==,i=0",
            "r=abcd,s=c2FsdA==,i=99999999999",
            "",
        ] {
            let (client, _) = Client::start_with_nonce("abc".into());
            assert!(client.answer("secret", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn broken_messages_of_clients() {
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "n,a=x,n=,r=abc",
            "x,,n=,r=abc",
            "p=tls-server-end-point,,n=,r=abc",
            "n,,m=1,n=,r=a",
            "n,,n=,r=",
            "n,,n=,r=\u{e9}",
        ] {
            assert!(Server::start("app", None, SECRET, bad).is_err(), "{bad}");
        }
        let verifier = Verifier::derive_with("x", b"salt", 1);
        for bad in [
            "",
            "c=biws",
            "c=biws,r=abcN",
            "c=biws,r=abcN,p=",
            "c=biws,r=abcN,p=AAAA",
            "c=eSws,r=abcN,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            let (server, _) = Server::start_with_nonce("app", Some(&verifier), SECRET, "n,,n=,r=abc", "N").unwrap();
            assert!(server.finish(bad).is_err(), "{bad}");
        }
    }
}
