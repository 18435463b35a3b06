//! An agent whose pins are of another ABI version than its predecessor's, under load: for a while both versions' hooks run.

use std::{collections::BTreeSet, net::SocketAddr};

use crate::{
    harness::{VIP4, World, eventually, verdict},
    pair::Pair,
};

#[test]
fn an_agent_of_another_abi_version_is_followed_without_a_gap() {
    isolated!(async |world: World| {
        let old = world.steer();
        let (client, server) = (world.pod(1), world.pod(2));
        // Its listeners stay open for as long as it drains.
        let drains = (client.enrolled(&old).await, server.enrolled(&old).await);
        let (mut app, mut peer) = (client.app(), server.app());
        peer.ok("import threading\ndef loop(l):\n  while True:\n    l.accept()[0].close()\n\
             l = listen('::', 80); l.settimeout(None)\nthreading.Thread(target=loop, args=(l,), daemon=True).start()");
        app.ok(&format!(
            "import threading\ncounts = [0, 0]\nstop = []\ndef load():\n  while not stop:\n    try:\n      dial('{VIP4}', 80).close()\n      \
             counts[0] += 1\n    except OSError as error:\n      counts[1] += 1\n    time.sleep(0.002)\n\
             load = threading.Thread(target=load); load.start()"
        ));
        eventually("the load to be steered", || (verdict(&old, "connect_steer") > 50).then_some(())).await;
        old.release();
        let instance = world.bpffs().join("weft/test");
        let (ours, theirs) = (format!("v{}", weft_abi::ABI_VERSION), "v1");
        std::fs::rename(instance.join(&ours), instance.join(theirs)).unwrap();
        let new = world.steer();
        let _enrolled = (client.enrolled(&new).await, server.enrolled(&new).await);
        // Both versions' hooks run, and each has the sockets of its own agent.
        let steered = verdict(&new, "connect_steer");
        eventually("the new hooks to steer the load", || (verdict(&new, "connect_steer") > steered + 50).then_some(()))
            .await;
        assert!(instance.join(theirs).exists());
        new.settle(&BTreeSet::new()).unwrap();
        assert!(!instance.join(theirs).exists(), "what the predecessor pinned is left");
        let mut pair = Pair::over(new, client, server).await;
        let believed = || verdict(&pair.steering, "lookup_same_node");
        eventually("the load to go directly", || (believed() > 50).then_some(())).await;
        app.ok("stop.append(1); load.join()");
        let counts = app.ok("counts");
        println!("{counts}");
        assert_eq!(counts[1], 0, "connects failed: {counts}");
        assert!(counts[0].as_u64() > Some(150), "{counts}");
        drop(drains);
        // No hook of the predecessor has a say in what is let in.
        pair.deny();
        let dropped = verdict(&pair.steering, "lookup_drop_same_node");
        assert_eq!(app.dial(SocketAddr::new(VIP4, 80)), Err(libc::ECONNREFUSED));
        assert_eq!(verdict(&pair.steering, "lookup_drop_same_node"), dropped + 1);
    });
}
