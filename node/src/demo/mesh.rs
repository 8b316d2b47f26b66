//! Brings the five hosts up, by the public command line alone, and looks at them the same way.

use std::{
    ffi::OsStr,
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::time::Instant;

use super::{
    bookinfo::Version,
    http_call,
    load::Visitor,
    plan::{ADMIN_PORT, DOCUMENTS, FIRST, HOSTS, Host, SEED_PORT},
    processes::Processes,
};

/// How long each step of coming up may take; a debug build on a busy machine needs some of it.
const STEP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// The running demo. Dropping it ends every process and removes what was temporary.
pub(super) struct Mesh {
    // Dropped in this order: the processes write in the directory.
    processes: Processes,
    dir: Directory,
    weft: PathBuf,
}

impl Mesh {
    pub(super) fn new(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let weft = std::env::current_exe().context("could not find the weft binary that is running")?;
        Ok(Self { processes: Processes::default(), dir: Directory::new(keep)?, weft })
    }

    pub(super) fn weft(&self) -> &Path {
        &self.weft
    }

    /// Data directory, configuration and logs of a host.
    pub(super) fn host_dir(&self, host: &Host) -> PathBuf {
        self.dir.path.join(host.name)
    }

    /// Where the demo's documents are, to be edited and applied again.
    pub(super) fn documents(&self) -> PathBuf {
        self.dir.path.join("documents")
    }

    /// From nothing to a page with every version of reviews. `say` hears of each step.
    pub(super) async fn bring_up(&mut self, say: impl Fn(&str)) -> anyhow::Result<()> {
        ports_are_free()?;
        say("creating the mesh on host-1");
        let advertise = FIRST.address.to_string();
        self.run(FIRST, &["init", "--name", FIRST.name, "--advertise", &advertise]).await?;
        self.start_node(FIRST)?;
        self.until_ready(FIRST).await?;

        for host in &HOSTS[1..] {
            say(&format!("{} joins with a token for {}", host.name, host.account()));
            self.join(host).await?;
            self.start_node(host)?;
        }
        for host in &HOSTS[1..] {
            self.until_ready(host).await?;
        }
        self.until_members(HOSTS.len()).await?;

        say("starting bookinfo and applying its documents");
        for host in &HOSTS {
            self.start_apps(host)?;
        }
        let documents = self.documents();
        fs::create_dir(&documents).with_context(|| format!("could not create {}", documents.display()))?;
        for (name, text) in DOCUMENTS {
            fs::write(documents.join(name), text)?;
        }
        self.run(FIRST, &[OsStr::new("apply"), OsStr::new("-f"), documents.as_os_str()]).await?;

        say("waiting for a page with each version of reviews");
        self.until_served().await
    }

    pub(super) fn all_alive(&mut self) -> anyhow::Result<()> {
        self.processes.all_alive()
    }

    /// How many members the first host sees alive.
    pub(super) async fn members_alive(&self) -> anyhow::Result<usize> {
        alive(&self.run(FIRST, &["members", "-o", "json"]).await?)
    }

    /// Where the first host's console is, with a code that signs in.
    pub(super) async fn console(&self) -> anyhow::Result<String> {
        self.run(FIRST, &["console"]).await
    }

    async fn join(&self, host: &Host) -> anyhow::Result<()> {
        let token = self.run(FIRST, &["token", "create", "--allow", &host.account()]).await?;
        let seed = format!("{}:{SEED_PORT}", FIRST.address);
        let advertise = host.address.to_string();
        let args = ["join", &seed, "--token", token.trim(), "--name", host.name, "--advertise", &advertise];
        self.run(host, &args).await?;
        Ok(())
    }

    fn start_node(&mut self, host: &Host) -> anyhow::Result<()> {
        let dir = self.host_dir(host);
        // Name, address and seeds are in the node.yaml that `weft init` or `weft join` left there.
        let config = dir.join("services.yaml");
        fs::write(&config, host.node_yaml()).with_context(|| format!("could not write {}", config.display()))?;
        let mut command = self.command();
        command.arg("up").arg("--dir").arg(&dir).arg("-c").arg(config);
        self.processes.start(&format!("the node {}", host.name), command, dir.join("node.log"))
    }

    fn start_apps(&mut self, host: &Host) -> anyhow::Result<()> {
        for app in host.apps {
            let instance = format!("{}-{}", host.service, app.version);
            let mut command = self.command();
            command
                .args(["bookinfo", host.service, "--version", app.version])
                .args(["--listen", &format!("{}:{}", host.address, app.port)])
                .env("http_proxy", format!("http://{}", host.outbound()))
                .env("HOSTNAME", &instance);
            self.processes.start(&instance, command, self.host_dir(host).join("app.log"))?;
        }
        Ok(())
    }

    /// The `weft` binary in a clean environment: what the user's shell exports must not change the demo.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.weft);
        let kept = ["PATH", "WEFT_LOG", "RUST_BACKTRACE"];
        // NO_COLOR: logs go to files.
        command
            .env_clear()
            .env("NO_COLOR", "1")
            .envs(kept.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
    }

    /// Runs one command on a host and gives its standard output.
    async fn run(&self, host: &Host, args: &[impl AsRef<OsStr>]) -> anyhow::Result<String> {
        let mut command = self.command();
        command.args(args).arg("--dir").arg(self.host_dir(host));
        let name = args.first().map(|word| word.as_ref().to_string_lossy().into_owned()).unwrap_or_default();
        let output = tokio::process::Command::from(command).kill_on_drop(true).output();
        let Output { status, stdout, stderr } = tokio::time::timeout(STEP, output)
            .await
            .with_context(|| format!("weft {name} on {} did not end within {} s", host.name, STEP.as_secs()))?
            .with_context(|| format!("could not start weft {name}"))?;
        let stderr = String::from_utf8_lossy(&stderr);
        ensure!(status.success(), "weft {name} on {} failed ({status}): {}", host.name, stderr.trim());
        String::from_utf8(stdout).with_context(|| format!("weft {name} printed no UTF-8"))
    }

    async fn until_ready(&mut self, host: &Host) -> anyhow::Result<()> {
        let what = format!("{} to be ready", host.name);
        let url = format!("http://{}:{ADMIN_PORT}/readyz", host.address);
        self.wait_for(&what, async |_: &Self| {
            let request = Request::get(&url).body(Full::<Bytes>::default())?;
            let response = http_call::call(None, request, Duration::from_secs(2)).await?;
            let body = String::from_utf8_lossy(response.body());
            ensure!(response.status().is_success(), "/readyz says {}: {}", response.status(), body.trim());
            Ok(())
        })
        .await
    }

    async fn until_members(&mut self, expected: usize) -> anyhow::Result<()> {
        self.wait_for("all members to be alive", async |mesh: &Self| {
            let alive = mesh.members_alive().await?;
            ensure!(alive == expected, "{alive} of {expected} are");
            Ok(())
        })
        .await
    }

    /// Until pages came with v1, v2 (for jason) and v3 of reviews: then every service, version and route was seen.
    async fn until_served(&mut self) -> anyhow::Result<()> {
        let visitor = Visitor::anonymous(FIRST);
        self.wait_for("bookinfo", async |_: &Self| {
            let jason = Visitor::signed_in(FIRST, "jason").await?;
            ensure!(jason.page().await? == Version::V2, "jason does not see v2 of reviews yet");
            let mut missing = vec![Version::V1, Version::V3];
            // With one page in five from v3, 200 pages without one would be a wonder (1 in 10^19).
            for _ in 0..200 {
                let version = visitor.page().await?;
                missing.retain(|other| *other != version);
                if missing.is_empty() {
                    return Ok(());
                }
            }
            bail!("no page came with {missing:?} of reviews");
        })
        .await
    }

    /// Tries `attempt` until it works, for up to a minute; fails at once if a process has ended.
    async fn wait_for(
        &mut self,
        what: &str,
        mut attempt: impl AsyncFnMut(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP;
        loop {
            self.processes.all_alive()?;
            let Err(error) = attempt(self).await else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(error.context(format!("waited {} s for {what}", STEP.as_secs())));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// How many members are alive in what `weft members -o json` printed.
fn alive(members: &str) -> anyhow::Result<usize> {
    let members: serde_json::Value = serde_json::from_str(members).context("weft members -o json printed no JSON")?;
    let members = members.as_array().context("weft members -o json printed no list")?;
    Ok(members.iter().filter(|member| member["state"] == "alive").count())
}

fn ports_are_free() -> anyhow::Result<()> {
    for host in &HOSTS {
        for port in host.ports() {
            let address = SocketAddr::from((host.address, port));
            let free = TcpListener::bind(address).map(drop);
            free.with_context(|| format!("the demo needs {address}/tcp for {}: stop what uses it", host.name))?;
        }
        let address = SocketAddr::from((host.address, SEED_PORT));
        let free = UdpSocket::bind(address).map(drop);
        free.with_context(|| format!("the demo needs {address}/udp for {}: stop what uses it", host.name))?;
    }
    Ok(())
}

/// Where the demo lives: a directory of the user's that stays, or one of our own that goes.
struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn new(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let temporary = keep.is_none();
        let path = match keep {
            Some(path) => std::path::absolute(&path).with_context(|| format!("{} is no path", path.display()))?,
            None => {
                std::env::temp_dir().join(format!("weft-demo-{}-{:08x}", std::process::id(), rand::random::<u32>()))
            }
        };
        // Keys of a mesh will lie here. A temporary directory must be new; one of the user's may exist, but empty.
        fs::DirBuilder::new()
            .mode(0o700)
            .recursive(!temporary)
            .create(&path)
            .with_context(|| format!("could not create {}", path.display()))?;
        let empty = fs::read_dir(&path).with_context(|| format!("could not read {}", path.display()))?.next().is_none();
        ensure!(empty, "{} is not empty: the demo starts a mesh of its own, name a new directory", path.display());
        Ok(Self { path, temporary })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("weft: could not remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_counted_by_state() {
        let members = r#"[{"name": "host-1", "state": "alive"}, {"name": "host-2", "state": "failed"}]"#;
        assert_eq!(alive(members).unwrap(), 1);
        assert!(alive("{}").is_err() && alive("").is_err());
    }

    #[test]
    fn a_temporary_directory_is_private_and_goes() {
        use std::os::unix::fs::PermissionsExt;
        let directory = Directory::new(None).unwrap();
        let path = directory.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("file"), "").unwrap();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_of_the_users_stays_and_must_be_empty() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        drop(Directory::new(Some(path.clone())).unwrap());
        assert!(path.exists());
        fs::write(path.join("file"), "").unwrap();
        let error = Directory::new(Some(path.clone())).err().unwrap().to_string();
        assert!(error.contains("is not empty"), "{error}");
        assert!(path.join("file").exists());
    }
}
