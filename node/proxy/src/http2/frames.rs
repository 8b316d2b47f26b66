//! What kinds of HTTP/2 frames a peer sends, without their meaning, which is h2's matter.

const HEADER: usize = 9;
const PREFACE: usize = 24;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;

/// Which side of a connection the frames are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Begins with the connection preface.
    Client,
    Server,
}

/// What some bytes brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of DATA frames.
    pub data: u64,
    /// Frames that carry nothing for a request and ask for work all the same: SETTINGS, PING, PRIORITY, PUSH_PROMISE,
    /// GOAWAY, frames of unknown kind, and DATA frames without data that end nothing.
    pub idle: u32,
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub struct Frames {
    header: [u8; HEADER],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the preface or the payload that are still to come.
    left: usize,
    is_data: bool,
    has_begun: bool,
    has_settings: bool,
}

impl Frames {
    pub fn new(sender: Sender) -> Self {
        let left = if sender == Sender::Client { PREFACE } else { 0 };
        Self { header: [0; HEADER], have: 0, left, is_data: false, has_begun: false, has_settings: false }
    }

    /// Whether a first frame has come.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the first frame is whole, which is the sender's SETTINGS (RFC 9113 section 3.4).
    pub fn has_settings(&self) -> bool {
        self.has_settings
    }

    pub fn pass(&mut self, mut bytes: &[u8]) -> Seen {
        let mut seen = Seen::default();
        while !bytes.is_empty() {
            if self.left > 0 {
                let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.left -= payload.len();
                if self.is_data {
                    seen.data += payload.len() as u64;
                }
                self.has_settings |= self.has_begun && self.left == 0;
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at((HEADER - self.have).min(bytes.len()));
            for (place, byte) in self.header.iter_mut().skip(self.have).zip(part) {
                *place = *byte;
            }
            self.have += part.len();
            bytes = rest;
            if self.have == HEADER {
                self.begin(&mut seen);
            }
        }
        seen
    }

    fn begin(&mut self, seen: &mut Seen) {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.have = 0;
        self.has_begun = true;
        self.has_settings |= self.left == 0;
        self.is_data = kind == DATA;
        let is_idle = match kind {
            DATA => self.left == 0 && flags & END_STREAM == 0,
            // These have limits of their own: headers, streams, and what streams that end early are counted as.
            HEADERS | CONTINUATION | RST_STREAM | WINDOW_UPDATE => false,
            _ => true,
        };
        seen.idle += u32::from(is_idle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
        [&length[..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_told_apart_however_they_come() {
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(0x4, 0, &[]),
            frame(HEADERS, 0x4, b"abc"),
            frame(DATA, 0, b"12345"),
            frame(DATA, 0, b""),
            frame(DATA, END_STREAM, b""),
            frame(0x6, 0, b"12345678"),
            frame(RST_STREAM, 0, b"1234"),
            frame(0xfa, 0, b"?"),
            frame(DATA, 0, b"678"),
        ]
        .concat();
        let expected = Seen { data: 8, idle: 4 };
        assert_eq!(Frames::new(Sender::Client).pass(&bytes), expected);
        for size in 1..20 {
            let mut frames = Frames::new(Sender::Client);
            let seen = bytes.chunks(size).map(|bytes| frames.pass(bytes));
            let sum = seen.fold(Seen::default(), |a, b| Seen { data: a.data + b.data, idle: a.idle + b.idle });
            assert_eq!(sum, expected, "in pieces of {size}");
        }
        assert_eq!(Frames::new(Sender::Server).pass(&bytes[PREFACE..]), expected);
    }

    #[test]
    fn settings_have_come_once_the_first_frame_is_whole() {
        for payload in [&[][..], &[0, 3, 0, 0, 0, 100]] {
            let bytes = [frame(0x4, 0, payload), frame(HEADERS, 0x4, b"abc")].concat();
            let mut frames = Frames::new(Sender::Server);
            let has_come: Vec<bool> =
                bytes.iter().map(|byte| (frames.pass(&[*byte]), frames.has_settings()).1).collect();
            assert_eq!(has_come.iter().position(|has_come| *has_come), Some(HEADER + payload.len() - 1));
            assert!(has_come.is_sorted());
        }
    }
}
