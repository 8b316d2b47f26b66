//! Messages of gRPC calls, counted by their frames: five bytes, of which the last four are the length of what follows.
//! See <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>. Calls that are not gRPC have nothing of this.

use std::{
    cell::{Cell, OnceCell},
    sync::{Arc, atomic::Ordering},
};

use crate::metrics::MessageSeries;

const HEAD: usize = 5;

/// Where one direction of a call is.
#[derive(Clone, Copy, Debug, Default)]
struct Frames {
    /// Of a head that has come in part.
    head: [u8; HEAD],
    head_len: usize,
    /// What is still to come of the present message.
    rest: usize,
}

impl Frames {
    /// Returns how many messages began in these bytes: those whose head has come whole.
    fn pass(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        loop {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return begun;
            }
            let taken = (HEAD - self.head_len).min(bytes.len());
            self.head[self.head_len..self.head_len + taken].copy_from_slice(&bytes[..taken]);
            self.head_len += taken;
            bytes = &bytes[taken..];
            if self.head_len == HEAD {
                let [_, length @ ..] = self.head;
                (self.head_len, self.rest) = (0, u32::from_be_bytes(length) as usize);
                begun += 1;
            }
        }
    }
}

/// The messages of one call.
#[derive(Default)]
pub(crate) struct Messages {
    received: Cell<Frames>,
    sent: Cell<Frames>,
    /// Messages that no series has yet.
    requests: Cell<u64>,
    responses: Cell<u64>,
    series: OnceCell<Arc<MessageSeries>>,
}

impl Messages {
    /// Bytes of the caller.
    pub(crate) fn received(&self, bytes: &[u8]) {
        count(&self.received, &self.requests, bytes);
        self.tell();
    }

    /// Bytes to the caller. From then on it is certain who answers: messages are counted as they come, since calls may
    /// last for days.
    pub(crate) fn sent(&self, bytes: &[u8], series: impl FnOnce() -> Arc<MessageSeries>) {
        self.series.get_or_init(series);
        count(&self.sent, &self.responses, bytes);
        self.tell();
    }

    /// As [`Self::sent`], of a call whose messages are counted at its end.
    pub(crate) fn sent_untold(&self, bytes: &[u8]) {
        count(&self.sent, &self.responses, bytes);
    }

    /// The messages that no series has yet, of the caller and to it.
    pub(crate) fn untold(&self) -> (u64, u64) {
        (self.requests.take(), self.responses.take())
    }

    /// The call is over.
    pub(crate) fn end(&self, series: impl FnOnce() -> Arc<MessageSeries>) {
        if self.requests.get() > 0 {
            self.series.get_or_init(series);
        }
        self.tell();
    }

    fn tell(&self) {
        let Some(series) = self.series.get() else { return };
        for (here, there) in [(&self.requests, &series.requests), (&self.responses, &series.responses)] {
            let messages = here.take();
            if messages > 0 {
                there.fetch_add(messages, Ordering::Relaxed);
            }
        }
    }
}

fn count(frames: &Cell<Frames>, messages: &Cell<u64>, bytes: &[u8]) {
    let mut state = frames.get();
    messages.set(messages.get() + state.pass(bytes));
    frames.set(state);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(messages: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.push(0);
            bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend(*message);
        }
        bytes
    }

    #[test]
    fn messages_are_counted_however_their_bytes_come() {
        let bytes = call(&[b"", b"abc", &[7; 300], b"", b"x"]);
        for size in [1, 2, 3, 4, 5, 6, 7, 64, 1_000] {
            let mut frames = Frames::default();
            let begun: u64 = bytes.chunks(size).map(|chunk| frames.pass(chunk)).sum();
            assert_eq!(begun, 5, "by {size}");
        }
        assert_eq!(Frames::default().pass(&call(&[b"cut off"])[..4]), 0, "half a head is no message");
    }

    #[test]
    fn they_are_told_from_the_first_answer_on_and_at_the_end() {
        let series = Arc::new(MessageSeries::of_nobody());
        let told = || (series.requests.load(Ordering::Relaxed), series.responses.load(Ordering::Relaxed));
        let messages = Messages::default();
        messages.received(&call(&[b"a", b"b"]));
        assert_eq!(told(), (0, 0), "it may still go to another endpoint");
        messages.sent(&call(&[b"c"]), || series.clone());
        assert_eq!(told(), (2, 1));
        messages.received(&call(&[b"d"]));
        assert_eq!(told(), (3, 1));

        let unanswered = Messages::default();
        unanswered.received(&call(&[b"a"]));
        unanswered.end(|| series.clone());
        assert_eq!(told(), (4, 1));
    }
}
