//! Steering outlives agents: successors, holders, and nobody at all.

use std::{
    net::SocketAddr,
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
};

use tracing::level_filters::LevelFilter;
use weft::{
    hold::Client,
    steer::{EnrolledPod, SteerError, Steering},
    sys::bpf,
};
use weft_core::same_node::SameNode;

use crate::harness::{TestPod, VIP4, VIP6, World, accept, eventually, verdict};

/// Steering with a holder.
fn held(world: &World) -> Steering {
    let mut config = world.config();
    config.holder = Some(world.holder());
    let steering = Steering::open(config).unwrap();
    steering.set_destinations(&[VIP4, VIP6].into()).unwrap();
    steering
}

/// `weft hold`, as a person would start it; killed with the test's cgroup at the latest.
struct Held {
    process: Child,
    client: Client,
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn holder(world: &World) -> Held {
    let mut hold = Command::new(env!("CARGO_BIN_EXE_weft"));
    let process = hold.arg("hold").arg("--socket").arg(world.holder()).stdout(Stdio::null()).spawn().unwrap();
    let client = eventually("the holder to answer", || Client::connect(&world.holder()).ok()).await;
    Held { process, client }
}

async fn serves(enrolled: &EnrolledPod, pod: &TestPod, other: &TestPod) {
    let (mut app, mut client) = (pod.app(), other.app());
    for (vip, own) in [(VIP4, pod.v4), (VIP6, pod.v6)] {
        app.dial(SocketAddr::new(vip, 80)).unwrap();
        assert_eq!(accept(&enrolled.outbound).await.1, SocketAddr::new(vip, 80));
        client.dial(SocketAddr::new(own, 15008)).unwrap();
        assert_eq!(accept(&enrolled.inbound).await.1, SocketAddr::new(own, 15008));
    }
}

#[test]
fn invariant_18_what_queued_at_the_predecessor_is_accepted_by_the_successor() {
    isolated!(async |world: World| {
        let _holder = holder(&world).await;
        let (pod, other) = (world.pod(1), world.pod(2));
        let first = held(&world);
        let predecessor = pod.enrolled(&first).await;
        let (mut app, mut client) = (pod.app(), other.app());
        app.ok(&format!("all = [dial('{VIP4}', 80) for _ in range(50)]"));
        client.ok(&format!("all = [dial('{}', 15008) for _ in range(50)]", pod.v4));
        first.release();
        let second = held(&world);
        let successor = pod.enrolled(&second).await;
        app.ok(&format!("all += [dial('{VIP4}', 80) for _ in range(50)]"));
        // The predecessor's last accepts, then its end: nothing that queued is reset.
        let mut accepted = vec![accept(&predecessor.outbound).await.0];
        drop((first, predecessor));
        while accepted.len() < 100 {
            accepted.push(accept(&successor.outbound).await.0);
        }
        for _ in 0..50 {
            accepted.push(accept(&successor.inbound).await.0);
        }
        for mut stream in accepted {
            std::io::Write::write_all(&mut stream, b"x").unwrap();
        }
        assert_eq!(app.ok("{s.recv(1).decode() for s in all} == {'x'}"), true);
        assert_eq!(client.ok("{s.recv(1).decode() for s in all} == {'x'}"), true);
    });
}

#[test]
fn invariant_19_with_a_holder_nobody_is_refused_while_no_agent_lives() {
    isolated!(async |world: World| {
        let holder = holder(&world).await;
        let (pod, other) = (world.pod(1), world.pod(2));
        let steering = held(&world);
        let enrolled = pod.enrolled(&steering).await;
        assert_eq!(holder.client.count().unwrap(), 2);
        // All an agent has goes with it, at once.
        drop((enrolled, steering));
        let (mut app, mut client) = (pod.app(), other.app());
        app.ok(&format!("a = dial('{VIP4}', 80); b = dial('{VIP6}', 80)"));
        client.ok(&format!("a = dial('{}', 15008); b = dial('{}', 80)", pod.v4, pod.v6));
        let successor = held(&world);
        let enrolled = pod.enrolled(&successor).await;
        for listener in [&enrolled.outbound, &enrolled.inbound] {
            for _ in 0..2 {
                let mut stream = accept(listener).await.0;
                std::io::Write::write_all(&mut stream, b"x").unwrap();
            }
        }
        assert_eq!(app.ok("a.recv(1) + b.recv(1) == b'xx'"), true);
        assert_eq!(client.ok("a.recv(1) + b.recv(1) == b'xx'"), true);
        serves(&enrolled, &pod, &other).await;
        successor.withdraw(enrolled.cookie).await.unwrap();
        successor.detach(enrolled.cookie).await.unwrap();
        assert_eq!(holder.client.count().unwrap(), 0);
    });
}

#[test]
fn invariant_20_with_a_holder_a_gap_delays_no_connect() {
    isolated!(async |world: World| {
        let _holder = holder(&world).await;
        let (pod, other) = (world.pod(1), world.pod(2));
        let steering = held(&world);
        drop((pod.enrolled(&steering).await, steering));
        // An unanswered SYN is sent again after a second; a timer of the hooks' own could only shorten that.
        let (mut app, mut client) = (pod.app(), other.app());
        let total_retrans = "struct.unpack_from('I', s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]";
        for (app, to, port) in [(&mut app, VIP4, 80), (&mut client, pod.v4, 15008)] {
            app.dial(SocketAddr::new(to, port)).unwrap();
            assert_eq!(app.ok(total_retrans), 0, "the first SYN to {to} was answered");
        }
        app.dial(SocketAddr::new(VIP6, 80)).unwrap();
        assert_eq!(app.ok(total_retrans), 0);
    });
}

#[test]
fn invariant_28_hooks_of_child_cgroups_run_before_those_of_their_parents() {
    isolated!(async |world: World| {
        let pod = world.pod(1);
        // Two meshes see the pod: the nearer takes the VIP, the farther takes nothing and wipes marks off what it leaves.
        let at = |instance: &str, cgroup: std::path::PathBuf| {
            let mut config = world.config();
            config.instance = instance.into();
            config.state = world.state().join(instance);
            config.cgroup = cgroup;
            Steering::open(config).unwrap()
        };
        let near = at("near", world.cgroup.join(&pod.name));
        let far = at("far", world.cgroup.clone());
        near.set_destinations(&[VIP4].into()).unwrap();
        let (_, _) = (pod.enrolled(&near).await, pod.enrolled(&far).await);
        let mut app = pod.app();
        let dialled = app.run(&format!("s = dial('{VIP4}', 80, timeout=0.3)"));
        assert_eq!((verdict(&near, "connect_steer"), verdict(&far, "connect_unknown_destination")), (1, 1));
        assert!(dialled.is_err(), "the parent had the last word: a mesh above all other hooks is where ours belongs");
    });
}

#[test]
fn without_a_holder_a_dead_agent_fails_closed_and_a_successor_heals() {
    isolated!(async |world: World| {
        let (pod, other) = (world.pod(1), world.pod(2));
        let steering = world.steer();
        drop(pod.enrolled(&steering).await);
        drop(steering);
        let mut client = other.app();
        assert_eq!(client.dial(SocketAddr::new(pod.v4, 80)), Err(libc::ECONNREFUSED));
        let mut app = pod.app();
        app.run(&format!("dial('{VIP4}', 80, timeout=0.3)")).unwrap_err();
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        app.dial(SocketAddr::new(other.v4, 80)).expect("what is not the mesh's never needs an agent");
        let successor = world.steer();
        let enrolled = pod.enrolled(&successor).await;
        serves(&enrolled, &pod, &other).await;
    });
}

#[test]
fn a_holder_that_comes_late_or_again_gets_every_listener() {
    isolated!(async |world: World| {
        let pod = world.pod(1);
        let steering = held(&world);
        let _enrolled = pod.enrolled(&steering).await;
        for _ in 0..2 {
            let late = holder(&world).await;
            eventually("the holder to be reminded", || (late.client.count().unwrap() == 2).then_some(())).await;
        }
    });
}

#[test]
fn invariant_21_pins_steer_alone_and_programs_are_exchanged_in_place() {
    isolated!(async |world: World| {
        let (pod, other) = (world.pod(1), world.pod(2));
        let steering = world.steer();
        let enrolled = pod.enrolled(&steering).await;
        let links = |world: &World| {
            let directory = world.bpffs().join(format!("weft/test/v{}/links", weft_abi::ABI_VERSION));
            let mut links: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            links.sort();
            links
        };
        let ids = |world: &World| -> Vec<(String, String)> {
            let field = |info: &str, name: &str| {
                info.lines().find_map(|line| line.strip_prefix(name)).expect("a field of fdinfo").trim().to_owned()
            };
            let of = |path: &std::path::PathBuf| {
                let link = bpf::open_pin(path).unwrap();
                let number = std::os::fd::AsRawFd::as_raw_fd(&link.as_fd());
                let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
                (field(&info, "link_id:"), field(&info, "prog_id:"))
            };
            links(world).iter().map(of).collect()
        };
        assert_eq!(links(&world).len(), 3, "connect4, connect6, lookup");
        steering.set_same_node(&SameNode::default(), true).unwrap();
        let before = ids(&world);
        assert_eq!(before.len(), 6, "connect4, connect6, peername4, peername6, flow, lookup");
        drop(steering);
        serves(&enrolled, &pod, &other).await;
        let successor = world.steer();
        let enrolled = pod.enrolled(&successor).await;
        let after = ids(&world);
        for ((old_link, old_program), (new_link, new_program)) in before.iter().zip(&after) {
            assert_eq!(old_link, new_link, "the link stays, so there is no moment without it");
            assert_ne!(old_program, new_program, "the program is the successor's");
        }
        serves(&enrolled, &pod, &other).await;
    });
}

#[test]
fn one_owner_at_a_time_and_a_released_one_writes_nothing() {
    isolated!(async |world: World| {
        let pod = world.pod(1);
        let first = world.steer();
        assert!(matches!(Steering::open(world.config()), Err(SteerError::Owned { .. })));
        let mut events = first.events().unwrap();
        first.release();
        assert!(events.next().await.is_none());
        assert!(matches!(first.enrol(pod.network()).await, Err(SteerError::Released)));
        assert!(matches!(first.set_destinations(&[VIP6].into()), Err(SteerError::Released)));
        let second = world.steer();
        let enrolled = pod.enrolled(&second).await;
        assert!(matches!(first.detach(enrolled.cookie).await, Err(SteerError::Released)));
        drop(first);
        let mut app = pod.app();
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        accept(&enrolled.outbound).await;
    });
}

#[test]
fn counters_outlive_agents_and_logging_can_be_turned_on_under_traffic() {
    isolated!(async |world: World| {
        let pod = world.pod(1);
        let steering = world.steer();
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        for level in [LevelFilter::DEBUG, LevelFilter::OFF] {
            steering.set_program_log(level).unwrap();
            app.dial(SocketAddr::new(VIP4, 80)).unwrap();
            accept(&enrolled.outbound).await;
        }
        drop(steering);
        let successor = world.steer();
        assert_eq!(verdict(&successor, "connect_steer"), 2);
    });
}

#[test]
fn a_directory_that_is_no_bpffs_and_a_name_that_is_none_are_explained() {
    isolated!(async |world: World| {
        let mut config = world.config();
        config.bpffs = world.state();
        let error = Steering::open(config).err().expect("no bpffs").to_string();
        assert!(error.contains("mount -t bpf"), "{error}");
        let mut config = world.config();
        config.instance = "a.b".into();
        assert!(matches!(Steering::open(config), Err(SteerError::BadInstance { .. })));
    });
}

/// Where the test's log goes.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_hooks_diagnostics_reach_the_log_while_somebody_wants_them() {
    isolated!(async |world: World| {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG).with_writer(move || writer.clone()).init();
        let lines = |what: &str| String::from_utf8(log.0.lock().unwrap().clone()).unwrap().matches(what).count();
        let pod = world.pod(1);
        let steering = world.steer();
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        accept(&enrolled.outbound).await;
        steering.set_program_log(LevelFilter::DEBUG).unwrap();
        app.dial(SocketAddr::new(VIP4, 81)).unwrap();
        accept(&enrolled.outbound).await;
        eventually("a line for the connect and one for its SYN", || (lines("10.96.0.10:81 ") >= 2).then_some(())).await;
        assert_eq!(lines("10.96.0.10:80 "), 0, "off is off");
    });
}
