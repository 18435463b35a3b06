//! A node with pods for one test, in a process of its own.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use weft::{
    steer::{EnrolledPod, GuardedPod, InboundModes, PodNetwork, SteerConfig, Steering, Unclassified},
    sys::{NetNs, cgroup, socket::original_destination},
};

use crate::app::App;

/// Set in the process that runs a test's body: the directory it may use.
const DIRECTORY: &str = "WEFT_STEERING_TEST";

/// No test needs longer unless something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// An address of a service: nobody has it, no route leads to it.
pub(crate) const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// The same for IPv6.
pub(crate) const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10));

/// Runs a closure that takes a [`World`] in isolation, under the name of the enclosing test.
macro_rules! isolated {
    ($body:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        $crate::harness::isolated(name, $body)
    }};
}

/// See the macro.
pub(crate) fn isolated(here: &str, body: impl AsyncFnOnce(World)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let world = World::enter(Path::new(&directory));
        // A thread beside the test's, which blocks: the agent's heartbeat must go on. Both are in the node's namespaces.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        return runtime.block_on(body(world));
    }
    let name = here.trim_end_matches("::here").split_once("::").expect("a path").1;
    run_apart(name);
}

/// Runs one test in a process of its own and tidies up after it.
fn run_apart(name: &str) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the steering tests load eBPF programs and make network namespaces: run them as root"
    );
    let directory = tempfile::tempdir().unwrap();
    let mount = cgroup::mount().expect("cgroup2");
    let label = directory.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
    let group = Group(mount.join(format!("weft-test-{label}")));
    fs::create_dir(&group.0).expect("a cgroup of its own");
    fs::write(directory.path().join("cgroup"), group.0.to_str().unwrap()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory.path())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    drop(group);
    assert!(status.success(), "{name}: {status}, see above");
}

/// A cgroup that takes its processes with it.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(5);
        while remove_group(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn remove_group(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path())?;
    }
    fs::remove_dir(group)
}

/// The node of a test.
pub(crate) struct World {
    directory: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl World {
    /// Leaves the machine's namespaces and prepares the node's.
    fn enter(directory: &Path) -> Self {
        let cgroup = PathBuf::from(fs::read_to_string(directory.join("cgroup")).unwrap());
        let agent = cgroup.join("agent");
        fs::create_dir(&agent).unwrap();
        fs::write(agent.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        fs::create_dir_all("/run/netns").unwrap();
        mount(Some("tmpfs"), "/run/netns", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let world = Self { directory: directory.to_owned(), cgroup };
        fs::create_dir(world.bpffs()).unwrap();
        mount(Some("bpf"), &world.bpffs(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        ip("link set lo up");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        world
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub(crate) fn holder(&self) -> PathBuf {
        self.directory.join("hold.sock")
    }

    /// The directory of pinned maps.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.bpffs().join(format!("weft/test/v{}/maps/{name}", weft_abi::ABI_VERSION))
    }

    pub(crate) fn config(&self) -> SteerConfig {
        SteerConfig {
            proc_sys: "/proc/sys".into(),
            bpffs: self.bpffs(),
            instance: "test".into(),
            cgroup: self.cgroup.clone(),
            state: self.state(),
            unclassified: Unclassified::Open,
            holder: None,
            destinations: 1024,
        }
    }

    /// Steering that takes both VIPs.
    pub(crate) fn steer(&self) -> Steering {
        let steering = Steering::open(self.config()).unwrap();
        steering.set_destinations(&BTreeSet::from([VIP4, VIP6])).unwrap();
        steering
    }

    /// A pod with a veth to the node, dual-stack, with a default route through it.
    pub(crate) fn pod(&self, number: u8) -> TestPod {
        let (v4, v6) = (format!("10.77.{number}"), format!("fd77:{number}:"));
        self.linked(number, [&format!("{v4}.2"), &format!("{v6}:2")], [&format!("{v4}.1"), &format!("{v6}:1")], || {
            ip(&format!("addr add {v4}.1/24 dev v{number}"));
            ip(&format!("addr add {v6}:1/64 dev v{number} nodad"));
        })
    }

    /// A pod whose veth's other end is a port of the node's bridge, which is its gateway.
    pub(crate) fn bridged_pod(&self, number: u8) -> TestPod {
        let (v4, v6) = (format!("10.88.0.{number}"), format!("fd88::{number}"));
        self.linked(number, [&v4, &v6], ["10.88.0.254", "fd88::fe"], || {
            if !Path::new("/proc/sys/net/ipv4/conf/br0").exists() {
                ip("link add br0 type bridge");
                ip("addr add 10.88.0.254/24 dev br0");
                ip("addr add fd88::fe/64 dev br0 nodad");
                ip("link set br0 up");
            }
            ip(&format!("link set v{number} master br0"));
        })
    }

    fn linked(&self, number: u8, own: [&str; 2], gateways: [&str; 2], join: impl FnOnce()) -> TestPod {
        let name = format!("pod{number}");
        ip(&format!("netns add {name}"));
        let netns = PathBuf::from(format!("/run/netns/{name}"));
        let ns = NetNs::open(&netns).unwrap();
        // Addresses that wait for duplicate detection would appear in the middle of a comparison.
        weft::sys::sysctl::write(Path::new(weft::sys::sysctl::PROC_SYS), &ns, "net.ipv6.conf.default.accept_dad", "0")
            .unwrap();
        ip(&format!("link add v{number} type veth peer name eth0 netns {name}"));
        join();
        ip(&format!("link set v{number} up"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} addr add {}/24 dev eth0", own[0]));
        ip(&format!("-n {name} addr add {}/64 dev eth0 nodad", own[1]));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} route add default via {}", gateways[0]));
        ip(&format!("-n {name} -6 route add default via {}", gateways[1]));
        // Neighbour discovery that meets a link without carrier waits a second for its next try.
        while !ip(&format!("-n {name} link show eth0")).contains("state UP")
            || !ip(&format!("link show v{number}")).contains("state UP")
        {
            std::thread::yield_now();
        }
        let group = self.cgroup.join(&name);
        let _ = fs::create_dir(&group);
        TestPod { ns, netns, name, v4: own[0].parse().unwrap(), v6: own[1].parse().unwrap(), group }
    }
}

/// A pod of the test's node.
pub(crate) struct TestPod {
    pub(crate) name: String,
    pub(crate) netns: PathBuf,
    pub(crate) ns: Arc<NetNs>,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    group: PathBuf,
}

impl TestPod {
    pub(crate) fn network(&self) -> PodNetwork {
        PodNetwork {
            uid: self.name.clone(),
            netns: self.netns.clone(),
            addresses: vec![self.v4, self.v6],
            avoid_ports: vec![8080],
            modes: InboundModes::default(),
        }
    }

    pub(crate) async fn enrolled(&self, steering: &Steering) -> EnrolledPod {
        steering.enrol(self.network()).await.unwrap()
    }

    /// A process in the pod's namespace and cgroup.
    pub(crate) fn app(&self) -> App {
        App::start(&self.ns, &self.group)
    }

    /// The address of one family.
    pub(crate) fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// The pod as the guard is told of it.
    pub(crate) fn guarded(&self, enrolled: bool) -> GuardedPod {
        let protects = if enrolled { vec![self.v4, self.v6] } else { Vec::new() };
        GuardedPod { name: self.name.clone(), netns: Arc::clone(&self.ns), protects }
    }

    /// The address of its device, with colons.
    pub(crate) fn hardware_address(&self) -> String {
        let link = self.ip("link show eth0");
        link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
    }

    /// The same as Python writes bytes.
    pub(crate) fn station(&self) -> String {
        format!("bytes.fromhex('{}')", self.hardware_address().replace(':', ""))
    }

    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        weft::sys::sysctl::write(Path::new(weft::sys::sysctl::PROC_SYS), &self.ns, key, value).unwrap();
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.name))
    }

    /// Loads nftables rules into the pod's namespace, as a container that holds NET_ADMIN can.
    pub(crate) fn nft(&self, rules: &str) {
        let output = Command::new("ip").args(["netns", "exec", &self.name, "nft", rules]).output().unwrap();
        assert!(output.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// iproute2, which must succeed.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until something is so.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Accepts a connection within a deadline: its stream, where it was going and where it came from.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr, SocketAddr) {
    let (stream, peer) = eventually("a connection to accept", || match listener.accept() {
        Ok(accepted) => Some(accepted),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("accept: {error}"),
    })
    .await;
    stream.set_nonblocking(false).unwrap();
    let to = original_destination(&stream).unwrap();
    (stream, to, weft::sys::socket::canonical(peer))
}

/// Nothing waits to be accepted. Called after the connect it is about has succeeded elsewhere, so no wait is needed.
pub(crate) fn assert_idle(listener: &TcpListener) {
    let error = listener.accept().expect_err("a connection came to the agent that should not have");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

/// How often a verdict was given.
pub(crate) fn verdict(steering: &Steering, label: &str) -> u64 {
    let verdicts = steering.verdicts().unwrap();
    verdicts.iter().find(|(found, _)| *found == label).expect("a verdict's label").1
}
