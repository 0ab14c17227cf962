//! A network of two: this machine, and a process in a namespace of its own, between which packets get lost.

use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Once;

/// Which packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    BothWays,
    ToServer,
    FromServer,
}

/// A pair of virtual interfaces, one of them in a namespace; removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    /// Of the namespace, and the beginning of the interfaces' names.
    name: String,
    near: [String; 2],
    far: [String; 2],
    hba: tempfile::NamedTempFile,
}

/// An address that no machine has: packets to it are lost silently.
const UNUSED_ADDRESS: &str = "02:00:00:00:00:00";

impl Network {
    /// `None` where this machine lets us make none, or has no `ip`: one line on stderr has then said so. With
    /// `AGENTKEY_TEST_NETNS=required` that is a panic.
    pub(crate) fn new() -> Option<Self> {
        let random = RandomState::new().hash_one(());
        let [.., a, b, c, d] = random.to_be_bytes();
        let name = format!("ak{a:02x}{b:02x}{c:02x}{d:02x}");
        let net = format!("10.{}.{b}.{}", 100 + a % 100, c & 0xfc);
        let last = net.rfind('.').map(|dot| net.split_at(dot + 1)).unwrap();
        let host = |number: u8| format!("{}{}", last.0, last.1.parse::<u8>().unwrap() + number);
        let end =
            |number: u8| [host(number), format!("02:{number:02x}:{a:02x}:{b:02x}:{c:02x}:{d:02x}")];
        let mut hba = tempfile::NamedTempFile::new().unwrap();
        hba.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).unwrap();
        writeln!(hba, "local all all trust\nhost all all all trust").unwrap();
        let network = Self { name, near: end(1), far: end(2), hba };
        if let Err(error) = network.make() {
            let why =
                format!("tests that need network namespaces, which cannot be made here: {error}");
            assert!(
                std::env::var("AGENTKEY_TEST_NETNS").map_or(true, |all| all != "required"),
                "there are {why}"
            );
            static ONCE: Once = Once::new();
            ONCE.call_once(|| drop(writeln!(std::io::stderr(), "left out: {why}")));
            return None;
        }
        network.heal();
        Some(network)
    }

    fn make(&self) -> Result<(), String> {
        let Self { name, near, far, .. } = self;
        let steps = [
            format!("netns add {name}"),
            format!(
                "link add {name}n address {} type veth peer name {name}f address {}",
                near[1], far[1]
            ),
            format!("link set {name}f netns {name}"),
            format!("address add {}/30 dev {name}n", near[0]),
            format!("link set {name}n up"),
            format!("-n {name} address add {}/30 dev {name}f", far[0]),
            format!("-n {name} link set {name}f up"),
        ];
        steps.iter().try_for_each(|step| ip(step))
    }

    /// Where the server listens, as the far process sees it.
    pub(crate) fn server_address(&self) -> &str {
        &self.near[0]
    }

    /// The server's access file, which lets every client connect.
    pub(crate) fn hba_file(&self) -> &str {
        self.hba.path().to_str().unwrap()
    }

    /// Runs this binary in the namespace.
    pub(crate) fn far_program(&self) -> Command {
        let mut program = Command::new("ip");
        program.args(["netns", "exec", &self.name]).arg(std::env::current_exe().unwrap());
        program
    }

    pub(crate) fn cut(&self, dropped: Dropped) {
        if dropped != Dropped::FromServer {
            self.send_to_server_as(UNUSED_ADDRESS);
        }
        if dropped != Dropped::ToServer {
            self.send_from_server_as(UNUSED_ADDRESS);
        }
    }

    pub(crate) fn heal(&self) {
        self.send_to_server_as(&self.near[1]);
        self.send_from_server_as(&self.far[1]);
    }

    fn send_to_server_as(&self, link: &str) {
        let name = &self.name;
        ip(&format!(
            "-n {name} neighbor replace {} lladdr {link} dev {name}f nud permanent",
            self.near[0]
        ))
        .unwrap();
    }

    fn send_from_server_as(&self, link: &str) {
        ip(&format!(
            "neighbor replace {} lladdr {link} dev {}n nud permanent",
            self.far[0], self.name
        ))
        .unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // With either end goes the other.
        let _ = ip(&format!("link delete {}n", self.name));
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
