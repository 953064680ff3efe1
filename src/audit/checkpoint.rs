//! What the log's holder has signed: so many records, with this root. A C2SP tlog-checkpoint in a signed note, by Ed25519 or RSA.
//!
//! <https://c2sp.org/tlog-checkpoint>, <https://c2sp.org/signed-note>. Keys are told as C2SP tells them,
//! `name+hash+base64(type, key)`: whoever has that line can verify, and nothing else is needed for it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{self, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use super::tree::Hash;

/// The state of a log at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: also the name of its key.
    pub origin: String,
    /// How many records it has.
    pub size: u64,
    pub root: Hash,
}

/// The types of keys that C2SP has, and one of its "other" ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Ed25519,
    /// RSASSA-PKCS1-v1_5 with SHA-256, of 2048 to 8192 bits.
    Rsa,
}

const ED25519: &[u8] = &[1];
const RSA: &[u8] = b"\xffbulkhead-rsa-pkcs1-sha256\n";

impl Algorithm {
    fn mark(self) -> &'static [u8] {
        match self {
            Algorithm::Ed25519 => ED25519,
            Algorithm::Rsa => RSA,
        }
    }
}

/// What signs.
pub struct Signer {
    key: Key,
    public: PublicKey,
}

enum Key {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public)
    }
}

impl Signer {
    /// A new Ed25519 key, as PKCS #8 in PEM.
    pub fn generate() -> String {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the system gives random bytes");
        let text = BASE64.encode(key.as_ref());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"))
    }

    /// By a PKCS #8 key in PEM, as `openssl genpkey -algorithm ed25519` and `-algorithm rsa` make it.
    ///
    /// # Errors
    /// It is none, or of another kind.
    pub fn new(pem: &[u8], origin: &str) -> Result<Signer, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| "no PKCS #8 private key in PEM".to_owned())?;
        let der = der.secret_pkcs8_der();
        if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public = PublicKey::new(origin, Algorithm::Ed25519, key.public_key().as_ref());
            return Ok(Signer { key: Key::Ed25519(key), public });
        }
        let key =
            RsaKeyPair::from_pkcs8(der).map_err(|_| "neither an Ed25519 key nor an RSA key of 2048 to 4096 bits".to_owned())?;
        let public = PublicKey::new(origin, Algorithm::Rsa, key.public_key().as_ref());
        Ok(Signer { key: Key::Rsa(Box::new(key)), public })
    }

    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let text = checkpoint.text();
        let signature = match &self.key {
            Key::Ed25519(key) => key.sign(text.as_bytes()).as_ref().to_vec(),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
                    .expect("the key was read, and the signature has its length");
                signature
            }
        };
        let signed = [&self.public.id[..], &signature].concat();
        format!("{text}\n\u{2014} {} {}\n", self.public.name, BASE64.encode(signed))
    }
}

/// What verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    algorithm: Algorithm,
    /// The first bytes of a hash of name and key: tells signatures of several keys apart.
    id: [u8; 4],
    key: Vec<u8>,
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id);
        write!(f, "{}+{id:08x}+{}", self.name, BASE64.encode([self.algorithm.mark(), &self.key].concat()))
    }
}

impl PublicKey {
    fn new(name: &str, algorithm: Algorithm, key: &[u8]) -> PublicKey {
        let hash = Sha256::new().chain_update(name).chain_update("\n").chain_update(algorithm.mark()).chain_update(key);
        let hash = hash.finalize();
        PublicKey { name: name.to_owned(), algorithm, id: [hash[0], hash[1], hash[2], hash[3]], key: key.to_vec() }
    }

    /// # Errors
    /// It is no such line, or of a kind that is not known.
    pub fn parse(line: &str) -> Result<PublicKey, String> {
        let parts = || {
            let (name, rest) = line.trim().split_once('+')?;
            let (id, key) = rest.split_once('+')?;
            Some((name, id, BASE64.decode(key).ok()?))
        };
        let (name, id, key) = parts().ok_or("a public key looks like name+hash+base64")?;
        let kinds = [Algorithm::Ed25519, Algorithm::Rsa];
        let (algorithm, key) = kinds
            .into_iter()
            .find_map(|kind| Some((kind, key.strip_prefix(kind.mark())?)))
            .ok_or("a public key of a kind that is not known here")?;
        let key = PublicKey::new(name, algorithm, key);
        if id != format!("{:08x}", u32::from_be_bytes(key.id)) {
            return Err("the public key was changed: its hash is another".to_owned());
        }
        Ok(key)
    }

    /// Which log's it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The checkpoint of a note that this key has signed.
    ///
    /// # Errors
    /// It is no note, or not signed by this key.
    pub fn open(&self, note: &str) -> Result<Checkpoint, String> {
        let (text, signatures) = note.rsplit_once("\n\n").ok_or("no signed note")?;
        let text = format!("{text}\n");
        let own = format!("\u{2014} {} ", self.name);
        let signed = signatures.lines().filter_map(|line| BASE64.decode(line.strip_prefix(&own)?).ok());
        let is_signed = |signature: Vec<u8>| match signature.split_at_checked(self.id.len()) {
            Some((id, signature)) => id == self.id && self.verify(text.as_bytes(), signature),
            None => false,
        };
        if !signed.into_iter().any(is_signed) {
            return Err(format!("not signed by {self}"));
        }
        let checkpoint = Checkpoint::parse(&text).ok_or("what is signed is no checkpoint")?;
        if checkpoint.origin != self.name {
            return Err(format!("it is a checkpoint of {}, and the key is of {}", checkpoint.origin, self.name));
        }
        Ok(checkpoint)
    }

    fn verify(&self, text: &[u8], signature: &[u8]) -> bool {
        let verified = match self.algorithm {
            Algorithm::Ed25519 => UnparsedPublicKey::new(&signature::ED25519, &self.key).verify(text, signature),
            Algorithm::Rsa => UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, &self.key).verify(text, signature),
        };
        verified.is_ok()
    }
}

impl Checkpoint {
    fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    fn parse(text: &str) -> Option<Checkpoint> {
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let checkpoint =
            Checkpoint { origin: origin.to_owned(), size: size.parse().ok()?, root: BASE64.decode(root).ok()?.try_into().ok()? };
        // One spelling: `+7` and `07` are none.
        (checkpoint.text() == text).then_some(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "bulkhead/test".to_owned(), size: 7, root: [3; 32] }
    }

    #[test]
    fn a_note_is_opened_by_the_public_key_and_by_no_other() {
        let pem = Signer::generate();
        let signer = Signer::new(pem.as_bytes(), "bulkhead/test").expect("a key");
        let note = signer.sign(&checkpoint());
        assert!(note.starts_with("bulkhead/test\n7\nAwMDAwMD"), "{note}");
        let public = PublicKey::parse(&signer.public().to_string()).expect("a line");
        assert_eq!(public.open(&note), Ok(checkpoint()));
        let other = Signer::new(Signer::generate().as_bytes(), "bulkhead/test").expect("a key");
        assert!(other.public().open(&note).is_err());
        let elsewhere = Signer::new(pem.as_bytes(), "bulkhead/elsewhere").expect("a key");
        assert!(elsewhere.public().open(&note).is_err());
        // A witness may have signed too.
        let witnessed = format!("{note}\u{2014} witness AAAA\n");
        assert_eq!(public.open(&witnessed), Ok(checkpoint()));
    }

    /// Of this test alone: `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`.
    const RSA_KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQD0WqfrXo5jVdM8\n\
kg9cfd6bK8r2dFg4EJovwFMMADstJdP6udaPwGkFtvE8WtNFcEA+/j9r2g/Cruni\n\
ub6JAVl84RLScaNLfrc72oTxI4ue+ND/fP3FDrxyZgtuTPoyr48faeFQbyfkav90\n\
9592hHoU+AcSEtiBG6oDN0oMEabjxTtu4ZLgFtOMe9LM38flSzOyjyQEN+4cUoha\n\
beW7Ewb270MtLGXANt+X/LcJ3ZEMHilB3rs4Hu3EtAEdgD/lu6SMArzFJhcjslOs\n\
dDkA4syRsppGCSssWFbE6kOCaVgc5b0LAeAayzrwBAlx+dC+nAGD4bNWvCe8CRiI\n\
Z/8Q19YtAgMBAAECggEAFWwLM6HHBuNj0PgXG6s3RFBLC184yrV95vjL7w3oIjWi\n\
R2Vab6DVNDiNHpbx1bEZGMyuX7Su1AkEnSlekGFLaJzMyyFGSRyTUM6AACn3GBlF\n\
LVjWYJvBnp/ema1q892bRQxBwgz0qNxOiAEbfEbx8vuplwaK74qu1XhX6AX2JRqe\n\
Fb2IdD+H6aVI7/S817n4DR3Z2Y9ZDtHW7byOJYH9IjSGrRhzCEgjupDCZ7AokFAv\n\
Z7qa6h1GLgwYnuCNmVPdNpBsWxTuyYn+i9qEfjcGLJRsVL+7aXd8k+W8h4n3uZ8r\n\
d0d+2PLgDvCgeJ+zPg7yZlN7vc8RH80LOe+4Dl8h+wKBgQD/X8CO1Gojo0ef5Lmd\n\
Io3cAF4cWLx63+pfPbmKaWpJE8obib+Hkf0FkNE4NYh6Ne/cJQE3K/ZxDAYSzJYg\n\
Mawb6pDj7QIeaGFTGMzHJca1tELx1P6TMuil26H1GQv3veAu+5BpTzcvhd0WkDQe\n\
ZrSWdb5ttjiE0w5Irrb/T5evJwKBgQD08/0d5e+POIc0QUyPv/aV3vmrfHdYfpms\n\
mGT2SLgyU8yl/tmO3Aidu9j0o7It1ED7pRMLT8Ov4V6c2HKw38W5T9sBFCU5m32O\n\
GGhcA0bYqMnHFr6eEdua7YBW6N0WEa0VeFp9TY/x778z4Pwg5iowKVhE4PlQOAm3\n\
AswcsLvkiwKBgQCbhsw18GWnyKQxW9IzQb0VlF+8ccpwJviNAoGCK0sgsF2xQcYU\n\
obNv9U+GJQw2Ka0n7J195VdUZ9c3EcQIXVgNNGEDfu+AZ1+GhR8J1hbbyKnQsEBO\n\
k32erVFIfPWN7uSemHTNvgHE/oi0WiRzs2ceDx1nocdwFT2oxEcM3INrlwKBgHPZ\n\
DOXeAG1466DQHTiDLkj1Opla9Uq6HU3eiSldfRf4P/plzFjfQYfv9ozE+pjoII+j\n\
I52e7Mq6yLdfOubh/i5FUStybqSPIFNawch6mEARm9R3slEp2vWry53O5fjxBS35\n\
TLqkOybOH1yW1Edu85bxhtiUmfTRe+68+PG8uDA/AoGBAOsAzQUhp32bAs/mSo4R\n\
aj2uzIu4+QNhCBbSJBfHWoUxz8y0EQ/63WrddbztnLnSME4VUN66klg2gPRRYmea\n\
DA6UlzQygDUN40xXeDExR+BeTDfUNuIxMY+jSM/j/4aJFzs1KWg6A0otidVoBZHS\n\
pkpyU0xDpiY4ag4jv2gxoJlo\n\
-----END PRIVATE KEY-----\n";

    #[test]
    fn rsa_signs_as_well() {
        let signer = Signer::new(RSA_KEY.as_bytes(), "bulkhead/test").expect("a key");
        let note = signer.sign(&checkpoint());
        let public = PublicKey::parse(&signer.public().to_string()).expect("a line");
        assert_eq!(public.open(&note), Ok(checkpoint()));
        assert!(public.open(&note.replacen("\n7\n", "\n8\n", 1)).is_err());
        let other = Signer::new(Signer::generate().as_bytes(), "bulkhead/test").expect("a key");
        assert!(other.public().open(&note).is_err() && public.open(&other.sign(&checkpoint())).is_err());
    }

    #[test]
    fn no_byte_of_a_note_can_be_changed() {
        let signer = Signer::new(Signer::generate().as_bytes(), "bulkhead/test").expect("a key");
        let note = signer.sign(&checkpoint());
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(signer.public().open(&changed).is_err(), "byte {at} of {note}: {changed}");
            }
        }
        let line = signer.public().to_string();
        for at in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(PublicKey::parse(&changed).is_err(), "byte {at} of {line}: {changed}");
            }
        }
    }

    #[test]
    fn keys_of_other_kinds_are_refused_and_no_secret_is_shown() {
        assert!(Signer::new(b"nothing", "x").is_err());
        assert!(Signer::new(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "x").is_err());
        let pem = Signer::generate();
        let shown = format!("{:?}", Signer::new(pem.as_bytes(), "x").expect("a key"));
        assert!(shown.starts_with("Signer(x+"), "{shown}");
    }
}
