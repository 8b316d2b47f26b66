//! Who is signed in at the productpage. Anyone may sign in as anyone: the name only makes the `end-user` header.

use std::collections::{HashMap, VecDeque};

use http::{
    HeaderMap,
    header::{COOKIE, HeaderValue},
};
use parking_lot::Mutex;

/// Sessions that are remembered; beyond that the oldest is signed out.
const MAX_SESSIONS: usize = 10_000;
/// Longest user name, in bytes.
const MAX_NAME: usize = 128;

/// Sessions by the random id that the `session` cookie carries. They live in this process only, so a second
/// productpage does not know them.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Open>);

#[derive(Default)]
struct Open {
    users: HashMap<u128, HeaderValue>,
    oldest_first: VecDeque<u128>,
}

impl Sessions {
    /// Opens a session and gives its `Set-Cookie` value, or none for a name that cannot be a header's value.
    pub(super) fn sign_in(&self, user: &str) -> Option<HeaderValue> {
        if user.is_empty() || user.len() > MAX_NAME {
            return None;
        }
        let user = HeaderValue::from_str(user).ok()?;
        let id: u128 = rand::random();
        let cookie = HeaderValue::from_str(&format!("session={id:032x}; Path=/; HttpOnly; SameSite=Lax")).ok()?;
        let mut open = self.0.lock();
        if open.oldest_first.len() >= MAX_SESSIONS
            && let Some(oldest) = open.oldest_first.pop_front()
        {
            open.users.remove(&oldest);
        }
        open.oldest_first.push_back(id);
        open.users.insert(id, user);
        Some(cookie)
    }

    /// Ends the session of a request and gives the `Set-Cookie` value that makes the browser forget it.
    pub(super) fn sign_out(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(id) = session_id(headers) {
            // Its place in `oldest_first` is left to be popped in turn: ids never come twice.
            self.0.lock().users.remove(&id);
        }
        HeaderValue::from_static("session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax")
    }

    /// The user whose session a request carries.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        self.0.lock().users.get(&session_id(headers)?).cloned()
    }
}

fn session_id(headers: &HeaderMap) -> Option<u128> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix("session="))
        .and_then(|id| u128::from_str_radix(id, 16).ok())
}

/// The value of `field` in a form body (`application/x-www-form-urlencoded`), or none if absent or not UTF-8.
pub(super) fn form_value(body: &[u8], field: &str) -> Option<String> {
    body.split(|byte| *byte == b'&').find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = pair.split_at(equals);
        (decode(name)? == field).then(|| decode(&value[1..])).flatten()
    })
}

fn decode(encoded: &[u8]) -> Option<String> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            other => *other,
        });
    }
    String::from_utf8(decoded).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookie(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).unwrap())])
    }

    fn sign_in(sessions: &Sessions, user: &str) -> HeaderMap {
        let cookie = sessions.sign_in(user).unwrap();
        with_cookie(cookie.to_str().unwrap().split(';').next().unwrap())
    }

    #[test]
    fn a_cookie_carries_its_session_until_signed_out() {
        let sessions = Sessions::default();
        let (jason, ann) = (sign_in(&sessions, "jason"), sign_in(&sessions, "ann"));
        assert_eq!(sessions.user(&jason).unwrap(), "jason");
        assert_eq!(sessions.user(&ann).unwrap(), "ann");
        sessions.sign_out(&jason);
        assert_eq!(sessions.user(&jason), None);
        assert_eq!(sessions.user(&ann).unwrap(), "ann");
    }

    #[test]
    fn the_session_is_found_among_other_cookies() {
        let sessions = Sessions::default();
        let cookie = sign_in(&sessions, "jason")[COOKIE].to_str().unwrap().to_owned();
        assert_eq!(sessions.user(&with_cookie(&format!("a=b; {cookie}; c=d"))).unwrap(), "jason");
    }

    #[test]
    fn a_made_up_cookie_is_nobody() {
        let sessions = Sessions::default();
        sign_in(&sessions, "jason");
        for cookie in ["session=jason", "session=", "session=0", "other=1"] {
            assert_eq!(sessions.user(&with_cookie(cookie)), None, "{cookie}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_a_header_is_refused() {
        let sessions = Sessions::default();
        for name in ["", "a\r\nx-evil: 1", &"x".repeat(MAX_NAME + 1)] {
            assert!(sessions.sign_in(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn the_oldest_session_makes_room() {
        let sessions = Sessions::default();
        let first = sign_in(&sessions, "first");
        for _ in 0..MAX_SESSIONS {
            sign_in(&sessions, "more");
        }
        assert_eq!(sessions.user(&first), None);
        assert_eq!(sessions.0.lock().users.len(), MAX_SESSIONS);
    }

    #[test]
    fn form_values_are_decoded() {
        let body = b"passwd=a%26b&username=j%C3%A4son+b&empty=";
        assert_eq!(form_value(body, "username").as_deref(), Some("j\u{e4}son b"));
        assert_eq!(form_value(body, "passwd").as_deref(), Some("a&b"));
        assert_eq!(form_value(body, "empty").as_deref(), Some(""));
        assert_eq!(form_value(body, "absent"), None);
        for broken in [&b"username=%"[..], b"username=%4", b"username=%zz", b"username=%ff", b"username", b""] {
            assert_eq!(form_value(broken, "username"), None);
        }
    }
}
