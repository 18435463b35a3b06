//! Tokens, through the door everyone uses: who shows one goes where it says, as long as that may be.

use super::*;
use crate::balance::{Times, Token};

const TIMES: Times = Times { begun: 1, used: 1 };

impl Client {
    /// Where a request with this token goes, and whether the token led anywhere.
    fn show(&mut self, snapshot: &Snapshot, token: &Token, tried: &[SocketAddr]) -> (SocketAddr, bool) {
        let prefer = self.balancers.held_by(snapshot, &key("a/s:80"), "cart", token);
        let request = Request { prefer, tried, ..Request::default() };
        let pick = self.balancers.pick_for(snapshot, &key("a/s:80"), &request, self.now, &mut *self.random);
        (pick.expect("an endpoint").target.address, prefer.is_some())
    }

    fn token(&mut self, snapshot: &Snapshot, of: SocketAddr) -> Token {
        loop {
            let pick = self.pick(snapshot, &[]).expect("an endpoint");
            if pick.target.address == of {
                return pick.token("cart", TIMES);
            }
        }
    }
}

#[test]
fn a_token_leads_where_it_was_given_whatever_the_algorithm() {
    for algorithm in ALGORITHMS {
        let snapshot = weighted(algorithm, &[1; 10]);
        let mut client = Client::new();
        let token = client.token(&snapshot, endpoint(7));
        assert!((0..50).all(|_| client.show(&snapshot, &token, &[]) == (endpoint(7), true)), "{algorithm:?}");
        // Another node's balancers have never seen it.
        assert_eq!(Client::new().show(&snapshot, &token, &[]), (endpoint(7), true));
        // It has failed this very request.
        assert_ne!(client.show(&snapshot, &token, &[endpoint(7)]).0, endpoint(7));
    }
}

#[test]
fn a_token_of_who_may_have_nothing_leads_to_the_ordinary_choice() {
    let at_first = weighted(Algorithm::Random, &[1; 4]);
    let mut client = Client::new();
    let token = client.token(&at_first, endpoint(2));
    let unready = |n: usize| EndpointAddress { ready: n != 2, serving: n != 2, ..ready(&address(n)) };
    let now = with_endpoints(Algorithm::Random, &[1; 4], (0..4).map(unready).collect());
    let spread: std::collections::BTreeSet<_> = (0..100).map(|_| client.show(&now, &token, &[]).0).collect();
    assert!(spread.len() == 3 && !spread.contains(&endpoint(2)), "{spread:?}");
    // Ready again, it is what it was; gone, nobody knows it.
    assert_eq!(client.show(&at_first, &token, &[]), (endpoint(2), true));
    let gone = weighted(Algorithm::Random, &[1; 2]);
    assert!(!Client::new().show(&gone, &token, &[]).1);
    // Ejected.
    let mut client = Client::new();
    client.eject(&at_first, endpoint(2));
    assert_ne!(client.show(&at_first, &token, &[]).0, endpoint(2));
}

#[test]
fn another_pod_at_the_address_is_not_meant() {
    let snapshot = weighted(Algorithm::Random, &[1; 3]);
    let mut client = Client::new();
    let token = client.token(&snapshot, endpoint(1));
    let other = Workload { uid: "another".into(), ..pod("a/p1", &address(1)) };
    let snapshot = snapshot.apply([Delta::Put(Resource::Workload(other))]);
    assert!(!client.show(&snapshot, &token, &[]).1);
}
