//! md5 authentication, for servers that still ask for it.

use md5::{Digest, Md5};

/// The answer to AuthenticationMD5Password: `md5` and the hex digest of (hex digest of password and user) and salt.
pub fn response(user: &str, password: &str, salt: [u8; 4]) -> String {
    let inner = hex(&Md5::new().chain_update(password).chain_update(user).finalize());
    format!("md5{}", hex(&Md5::new().chain_update(inner).chain_update(salt).finalize()))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_as_libpq_does() {
        // SELECT 'md5' || md5(md5('secret' || 'app') || E'\x01\x02\x03\x04')
        assert_eq!(super::response("app", "secret", [1, 2, 3, 4]), "md5911f527656472583a006e7727877b33e");
    }
}
