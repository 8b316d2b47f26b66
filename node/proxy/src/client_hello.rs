//! What a TLS client says first, read without ending its TLS: the name of the server that it wants.

use std::{
    io::{self, Cursor},
    time::Duration,
};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use crate::prefixed::Prefixed;

/// For the ClientHello. Who means a service that goes by it speaks first.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest ClientHello, in bytes, with its record headers. Post-quantum key shares make it 2 KiB; TLS allows 64 KiB.
const MAX_LEN: usize = 16 * 1024;

/// The first bytes of a client.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientHello {
    /// `None` if it is no ClientHello, or one without a name.
    pub(crate) server_name: Option<String>,
    /// All that was read, to be sent on.
    bytes: Vec<u8>,
}

impl ClientHello {
    /// Reads until the server's name is known, or that there is none.
    ///
    /// # Errors
    /// The client said nothing for 10 s, or too much, or went away.
    pub(crate) async fn read(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        timeout(LIMIT, Self::read_all(client)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn read_all(client: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut acceptor = Acceptor::default();
        let mut bytes = Vec::with_capacity(1_024);
        loop {
            let before = bytes.len();
            if client.take((MAX_LEN - before) as u64).read_buf(&mut bytes).await? == 0 {
                return match before {
                    MAX_LEN => Err(io::Error::other("the ClientHello is too long")),
                    // A client that says a little and ends may still be one of another protocol.
                    1.. => Ok(Self { server_name: None, bytes }),
                    0 => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            let mut new = Cursor::new(bytes.get(before..).unwrap_or_default());
            while (new.position() as usize) < bytes.len() - before {
                if acceptor.read_tls(&mut new)? == 0 {
                    break;
                }
            }
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(hello)) => {
                    let server_name = hello.client_hello().server_name().map(str::to_owned);
                    return Ok(Self { server_name, bytes });
                }
                Err(_) => return Ok(Self { server_name: None, bytes }),
            }
        }
    }

    /// The client's stream, from its first byte.
    pub(crate) fn before<S>(self, client: S) -> Prefixed<S> {
        Prefixed::new(self.bytes, client)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::sniff;

    fn hello_of(server_name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), server_name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// Reads what comes in pieces of so many bytes, and then all of the stream again.
    async fn read(bytes: &[u8], piece: usize) -> (io::Result<Option<String>>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(piece);
        let sent = bytes.to_vec();
        let send = tokio::spawn(async move {
            // The reader may refuse it and hang up.
            let _ = theirs.write_all(&sent).await;
            let _ = theirs.shutdown().await;
            theirs
        });
        let hello = match ClientHello::read(&mut ours).await {
            Ok(hello) => hello,
            Err(error) => return (Err(error), Vec::new()),
        };
        let server_name = hello.server_name.clone();
        let mut all = Vec::new();
        let mut whole = hello.before(ours);
        let end = async { drop(send.await) };
        let (read, ()) = tokio::join!(whole.read_to_end(&mut all), end);
        read.unwrap();
        (Ok(server_name), all)
    }

    #[tokio::test]
    async fn the_servers_name_is_read_however_it_comes_and_no_byte_is_lost() {
        let mut bytes = hello_of("Books.example.com");
        bytes.extend_from_slice(b"and what follows");
        for piece in [1, 5, 100, 1 << 16] {
            let (server_name, all) = read(&bytes, piece).await;
            assert_eq!(server_name.unwrap().as_deref(), Some("books.example.com"), "{piece}");
            assert_eq!(all, bytes);
        }
        assert_eq!(sniff::server_name(&bytes).as_deref(), Some("books.example.com"));
        assert_eq!(sniff::server_name(&bytes[..100]), None);
    }

    #[tokio::test]
    async fn what_is_no_client_hello_names_no_server() {
        let to_an_address = hello_of("127.0.0.1");
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0x16, 3, 1, 0, 4, 9, 9, 9, 9], b"\x16", &to_an_address] {
            let (server_name, all) = read(bytes, 1 << 16).await;
            assert_eq!((server_name.unwrap(), all), (None, bytes.to_vec()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_or_too_much_is_refused() {
        let (mut ours, _theirs) = tokio::io::duplex(1);
        assert_eq!(ClientHello::read(&mut ours).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // A handshake message of 64 KiB, in records of 4 KiB, that never ends.
        let mut endless = Vec::new();
        for record in 0..8 {
            endless.extend_from_slice(&[0x16, 3, 1, 0x10, 0]);
            let start = if record == 0 { vec![1, 0, 0xff, 0xff] } else { Vec::new() };
            endless.extend_from_slice(&start);
            endless.extend(std::iter::repeat_n(0, 4096 - start.len()));
        }
        assert!(read(&endless, 1 << 16).await.0.is_err_and(|error| error.to_string().contains("too long")));
    }
}
