//! Statements as servers know them: named by their content, so that all clients and all tenants share them.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use rand::RngCore;
use sha2::{Digest, Sha256};

use super::{Literals, Plan};
use crate::finding::Denial;
use crate::principal::Tenant;

/// A statement as servers know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Identity: a keyed hash of text and types.
    pub id: u128,
    /// The id as a name.
    pub name: Box<str>,
    pub text: Bytes,
    /// Declared types, padded, and the tenant's.
    pub types: Box<[u32]>,
}

impl Upstream {
    /// `read_by`: what its constants are read by, see [`Settings::read_by`](crate::backend::connection::Settings::read_by).
    pub fn new(text: Bytes, types: &[u32], read_by: &[u8]) -> Self {
        let id = identity(&text, types, read_by);
        Upstream { id, name: name_of(id).into(), text, types: types.into() }
    }

    /// The plan's text with the client's literals in it. `tenant`: where it stands in the text, too.
    ///
    /// # Errors
    /// More types are declared than the statement has parameters: the tenant's would stand in their place.
    pub fn of(
        plan: &Plan,
        source: &str,
        literals: &Literals,
        declared: &[u32],
        tenant: Option<&Tenant>,
        read_by: &[u8],
    ) -> Result<Self, Denial> {
        let mut text = BytesMut::new();
        plan.write_parameterised(source, literals, tenant, &mut text);
        let mut types = declared.to_vec();
        if plan.has_tenant_parameter() {
            let own = usize::from(plan.parameters());
            if types.len() > own {
                return Err(Denial::unsupported("more parameter types are declared than the statement has parameters"));
            }
            types.resize(own, 0);
            types.push(plan.tenant_parameter_type());
        }
        Ok(Upstream::new(text.freeze(), &types, read_by))
    }
}

/// The name of a statement upstream.
pub fn name_of(id: u128) -> String {
    format!("bulkhead_{id:032x}")
}

/// A hash that nobody outside this process can compute, so that no two statements can be made to share a name.
fn identity(text: &[u8], types: &[u32], read_by: &[u8]) -> u128 {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = [0; 32];
        rand::rng().fill_bytes(&mut key);
        key
    });
    let mut hash = Sha256::new_with_prefix(key);
    hash.update(read_by.len().to_be_bytes());
    hash.update(read_by);
    hash.update(text.len().to_be_bytes());
    hash.update(text);
    types.iter().for_each(|oid| hash.update(oid.to_be_bytes()));
    let digest: [u8; 32] = hash.finalize().into();
    digest[..16].iter().fold(0, |id, byte| id << 8 | u128::from(*byte))
}
