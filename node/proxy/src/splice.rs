//! Bytes both ways between two streams.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// Read at once, at most.
const BUFFER: usize = 64 * 1024;

thread_local! {
    /// What all of a worker's connections read into, one after the other. Only bytes that cannot be written at once
    /// keep it from the others, so that a connection which waits holds none.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Copies what each side sends to the other, and its end behind it, until both have ended.
///
/// # Errors
/// The first of either side.
pub(crate) async fn both_ways(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let there = there.poll(cx, &mut one, &mut other)?;
        let back = back.poll(cx, &mut other, &mut one)?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[derive(Default)]
struct Way {
    /// Read, of which so many bytes are written.
    read: Vec<u8>,
    written: usize,
    is_unflushed: bool,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Open,
    /// The reader has ended, which the writer is not told yet.
    Ended,
    /// The reader has failed, behind bytes that came before.
    Failed(io::Error),
    Closed,
}

impl Way {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.write(cx, to))?;
            match &mut self.state {
                State::Open => {
                    if self.read(cx, from).is_pending() {
                        if self.is_unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(cx))?;
                            self.is_unflushed = false;
                        }
                        return Poll::Pending;
                    }
                }
                State::Ended => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Closed;
                }
                State::Failed(error) => return Poll::Ready(Err(std::mem::replace(error, io::ErrorKind::Other.into()))),
                State::Closed => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads until there is nothing more just now or the buffer is full: of a TLS stream each read is a record.
    fn read(&mut self, cx: &mut Context<'_>, from: &mut (impl AsyncRead + Unpin)) -> Poll<()> {
        let mut buffer = SPARE.take();
        buffer.reserve_exact(BUFFER);
        let mut is_waiting = false;
        while buffer.len() < BUFFER {
            match poll_read_buf(Pin::new(&mut *from), cx, &mut buffer) {
                Poll::Ready(Ok(1..)) => continue,
                Poll::Ready(Ok(0)) => self.state = State::Ended,
                Poll::Ready(Err(error)) => self.state = State::Failed(error),
                Poll::Pending => is_waiting = buffer.is_empty(),
            }
            break;
        }
        if buffer.is_empty() {
            SPARE.set(buffer)
        } else {
            self.read = buffer
        }
        if is_waiting { Poll::Pending } else { Poll::Ready(()) }
    }

    fn write(&mut self, cx: &mut Context<'_>, to: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        while let Some(rest) = self.read.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
            self.is_unflushed = true;
        }
        if self.written > 0 {
            self.written = 0;
            self.read.clear();
            SPARE.set(std::mem::take(&mut self.read));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadBuf, duplex, join, sink, split};

    use super::*;

    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    /// More than what is read at once, and than the pipes hold.
    fn bytes(seed: u8) -> Vec<u8> {
        (0..3 * BUFFER + 17).map(|i| (i % 251) as u8 ^ seed).collect()
    }

    #[tokio::test]
    async fn what_each_side_sends_comes_to_the_other_and_its_end_too() {
        let ((mut client, near), (far, mut server)) = (duplex(1_000), duplex(70_000));
        let client = async {
            let (mut read, mut write) = split(&mut client);
            let sent = async {
                write.write_all(&bytes(1)).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut answer = Vec::new();
            let (_, received) = tokio::join!(sent, read.read_to_end(&mut answer));
            received.unwrap();
            answer
        };
        let server = async {
            let mut first = [0; 5];
            server.read_exact(&mut first).await.unwrap();
            // Both ways at once, and on when the client has ended.
            server.write_all(&bytes(2)).await.unwrap();
            let mut request = first.to_vec();
            server.read_to_end(&mut request).await.unwrap();
            server.write_all(b"at last").await.unwrap();
            server.shutdown().await.unwrap();
            request
        };
        let (done, answer, request) = tokio::join!(both_ways(near, far), client, server);
        done.unwrap();
        assert!(request == bytes(1) && answer == [bytes(2), b"at last".to_vec()].concat());
    }

    #[tokio::test]
    async fn bytes_before_a_failure_still_arrive() {
        let near = join(b"the last".chain(Broken), sink());
        let (far, mut server) = duplex(1_000);
        let failed = both_ways(near, far).await.unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"the last");
    }

    #[tokio::test]
    async fn a_way_that_waits_holds_no_buffer() {
        let mut way = Way::default();
        let (mut sender, mut from) = duplex(1_000);
        sender.write_all(b"some").await.unwrap();
        assert!(poll_fn(|cx| Poll::Ready(way.poll(cx, &mut from, &mut sink()).is_pending())).await);
        assert_eq!(way.read.capacity(), 0);
        let spare = SPARE.take();
        assert!(spare.is_empty() && spare.capacity() >= BUFFER);

        // What the writer does not take, and its end behind it.
        let ((mut writer, from), (mut to, mut reader)) = (duplex(BUFFER), duplex(100));
        writer.write_all(&bytes(3)[..BUFFER]).await.unwrap();
        drop(writer);
        let mut from = join(from, sink());
        assert!(poll_fn(|cx| Poll::Ready(way.poll(cx, &mut from, &mut to).is_pending())).await);
        assert!(way.read.len() == BUFFER && way.written == 100);
        let mut read = Vec::new();
        let copied = async {
            poll_fn(|cx| way.poll(cx, &mut from, &mut to)).await.unwrap();
        };
        let (_, received) = tokio::join!(copied, reader.read_to_end(&mut read));
        received.unwrap();
        assert!(read == bytes(3)[..BUFFER] && way.read.capacity() == 0);
    }
}
