//! A grant as a certificate carries it: text such as `role=ca;accounts=default/*,prod/reviews`, in a private
//! extension that is not critical, so that other TLS software may read the certificate too.

use weft_wire::id::{Grant, IdError};
use x509_parser::asn1_rs::{FromDer, ToDer, Utf8String};

/// The extension's OID, in IANA's experimental arc.
pub(crate) const OID: &[u64] = &[1, 3, 6, 1, 3, 15008, 1];
/// Longest text, in bytes.
pub const MAX_GRANT_LEN: usize = 4 * 1024;
/// Most account patterns in one grant.
pub const MAX_PATTERNS: usize = 64;

/// Why a grant cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    #[error(
        "a grant holds {MAX_PATTERNS} account patterns in {MAX_GRANT_LEN} bytes at most; \
         allow a namespace (NS/*) instead"
    )]
    TooLarge,
    #[error("a grant must read role=ROLE;accounts=PATTERN,… and nothing else")]
    BadForm,
    #[error(transparent)]
    Id(#[from] IdError),
}

/// Writes a grant as text.
///
/// # Errors
/// [`GrantError::TooLarge`] past [`MAX_PATTERNS`] or [`MAX_GRANT_LEN`].
pub fn to_text(grant: &Grant) -> Result<String, GrantError> {
    if grant.accounts.len() > MAX_PATTERNS {
        return Err(GrantError::TooLarge);
    }
    let accounts: Vec<String> = grant.accounts.iter().map(ToString::to_string).collect();
    let text = format!("role={};accounts={}", grant.role, accounts.join(","));
    if text.len() > MAX_GRANT_LEN { Err(GrantError::TooLarge) } else { Ok(text) }
}

/// Reads what [`to_text`] wrote, and nothing else.
///
/// # Errors
/// If the text is not a grant; the message says what is wrong with it.
pub fn from_text(text: &str) -> Result<Grant, GrantError> {
    if text.len() > MAX_GRANT_LEN {
        return Err(GrantError::TooLarge);
    }
    let (role, accounts) =
        text.strip_prefix("role=").and_then(|rest| rest.split_once(";accounts=")).ok_or(GrantError::BadForm)?;
    if accounts.split(',').count() > MAX_PATTERNS {
        return Err(GrantError::TooLarge);
    }
    let accounts = match accounts {
        "" => Vec::new(),
        list => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
    };
    Ok(Grant { role: role.parse()?, accounts })
}

/// The extension's value: the text as a DER UTF8String.
pub(crate) fn to_der(grant: &Grant) -> Result<Vec<u8>, GrantError> {
    let text = to_text(grant)?;
    Ok(Utf8String::new(&text).to_der_vec().expect("a Vec takes all that is written, and the text is short"))
}

pub(crate) fn from_der(der: &[u8]) -> Result<Grant, GrantError> {
    let (rest, text) = Utf8String::from_der(der).map_err(|_| GrantError::BadForm)?;
    if rest.is_empty() { from_text(text.as_ref()) } else { Err(GrantError::BadForm) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_wire::id::{AccountPattern, Role};

    use super::*;

    pub(crate) fn any_grant() -> impl Strategy<Value = Grant> {
        let role = prop_oneof![Just(Role::Member), Just(Role::Admin), Just(Role::Ca)];
        let pattern = prop_oneof![
            Just("*/*".to_owned()),
            "[a-z][a-z0-9]{0,8}/\\*",
            "[a-z][a-z0-9]{0,8}/[a-z][a-z0-9]{0,8}(\\.[a-z]{1,5})?",
        ];
        (role, prop::collection::vec(pattern, 0..=MAX_PATTERNS)).prop_map(|(role, patterns)| Grant {
            role,
            accounts: patterns.iter().map(|pattern| pattern.parse().unwrap()).collect(),
        })
    }

    proptest! {
        #[test]
        fn a_grant_reads_back_as_it_was_written(grant in any_grant()) {
            prop_assert_eq!(from_text(&to_text(&grant).unwrap()).unwrap(), grant.clone());
            prop_assert_eq!(from_der(&to_der(&grant).unwrap()).unwrap(), grant);
        }

        #[test]
        fn whatever_reads_as_a_grant_is_written_the_same(text in "role=(member|ca|x);accounts=[a-z*/,.]{0,20}") {
            if let Ok(grant) = from_text(&text) {
                prop_assert_eq!(to_text(&grant).unwrap(), text);
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = from_der(&bytes);
        }
    }

    #[test]
    fn the_text_is_the_documented_one() {
        let grant = from_text("role=ca;accounts=default/*,prod/reviews").unwrap();
        assert_eq!(grant.role, Role::Ca);
        assert_eq!(grant.accounts, ["default/*", "prod/reviews"].map(|p| p.parse::<AccountPattern>().unwrap()));
        assert_eq!(from_text("role=member;accounts=").unwrap(), Grant { role: Role::Member, accounts: vec![] });
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "role=ca",
            "accounts=a/b;role=ca",
            "role=root;accounts=a/b",
            "role=ca;accounts=a",
            "role=ca;accounts=a/b,",
            "role=ca;accounts=a/b;more=x",
            "role=ca; accounts=a/b",
            "role=ca;accounts=*/b",
        ] {
            assert!(from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_grant_has_bounds() {
        let many = Grant { role: Role::Member, accounts: vec![AccountPattern::Any; MAX_PATTERNS + 1] };
        assert_eq!(to_text(&many), Err(GrantError::TooLarge));
        assert_eq!(
            from_text(&format!("role=member;accounts={}", vec!["*/*"; MAX_PATTERNS + 1].join(","))),
            Err(GrantError::TooLarge)
        );
        let long: AccountPattern = format!("a/{}", vec!["b".repeat(60); 4].join(".")).parse().unwrap();
        let long = Grant { role: Role::Member, accounts: vec![long; 20] };
        assert_eq!(to_text(&long), Err(GrantError::TooLarge));
    }
}
