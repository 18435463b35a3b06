//! The codecs of the headers: they read what they write and refuse the rest without a panic.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

#[test]
fn authorities_have_one_form() {
    for good in ["10.0.0.1:80", "[fd00::1]:65535", "[::1]:1"] {
        assert_eq!(format_authority(parse_authority(good).unwrap()), good);
    }
    for (bad, why) in [
        ("", AuthorityError::NoPort),
        ("10.0.0.1", AuthorityError::NoPort),
        ("10.0.0.1:", AuthorityError::Port),
        ("10.0.0.1:0", AuthorityError::Port),
        ("10.0.0.1:080", AuthorityError::Port),
        ("10.0.0.1:+80", AuthorityError::Port),
        ("10.0.0.1:65536", AuthorityError::Port),
        ("10.0.0.1:99999999999999999999", AuthorityError::Port),
        ("10.0.0.1:80:80", AuthorityError::Host),
        ("10.0.0.01:80", AuthorityError::Host),
        ("echo.shop:80", AuthorityError::Host),
        ("user@10.0.0.1:80", AuthorityError::Host),
        ("fd00::1:80", AuthorityError::Host),
        ("[fd00::1%eth0]:80", AuthorityError::Host),
        ("[10.0.0.1]:80", AuthorityError::Host),
        ("[fd00::1:80", AuthorityError::Host),
        ("[::ffff:10.0.0.1]:80", AuthorityError::Mapped),
    ] {
        assert_eq!(parse_authority(bad), Err(why), "{bad}");
    }
}

#[test]
fn forwarded_is_one_hop() {
    let read = parse_forwarded("for=\"[fd00::7]:4711\";host=echo.shop.svc.cluster.local").unwrap();
    assert_eq!(read.client, "[fd00::7]:4711".parse::<SocketAddr>().unwrap());
    assert_eq!(read.host.as_deref(), Some("echo.shop.svc.cluster.local"));
    assert_eq!(parse_forwarded("For=10.0.0.1:1; Host=x").unwrap().host.as_deref(), Some("x"));
    for (bad, why) in [
        ("", ForwardedError::Syntax),
        ("host=x", ForwardedError::NoClient),
        ("for=unknown:1", ForwardedError::Client(AuthorityError::Host)),
        ("for=10.0.0.1", ForwardedError::Client(AuthorityError::NoPort)),
        ("for=\"10.0.0.1:1\", for=\"10.0.0.2:1\"", ForwardedError::Syntax),
        ("for=10.0.0.1:1;for=10.0.0.1:1", ForwardedError::Parameter),
        ("for=10.0.0.1:1;proto=http", ForwardedError::Parameter),
        ("for=\"10.0.0.1:1", ForwardedError::Syntax),
        ("for=10.0.0.1:1;host=\"a\\\"b\"", ForwardedError::Syntax),
    ] {
        assert_eq!(parse_forwarded(bad), Err(why), "{bad}");
    }
    assert_eq!(parse_forwarded(&"x".repeat(2000)), Err(ForwardedError::TooLong));
}

#[test]
fn baggage_of_ztunnel_is_read() {
    let text = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,\
                service.version=v1,cloud.region=eu,cloud.availability_zone=eu-1,vendor.x=1;prop";
    let claims = parse_baggage(text).unwrap();
    assert_eq!(claims.namespace.as_deref(), Some("shop"));
    assert_eq!(claims.workload, Some(("deployment".to_owned(), "cart".to_owned())));
    assert_eq!(parse_baggage(&format_baggage(&claims)), Ok(claims));
    assert_eq!(parse_baggage(" "), Ok(Claims::default()));
}

#[test]
fn lying_baggage_is_refused() {
    for (bad, why) in [
        ("novalue".to_owned(), BaggageError::Syntax),
        ("=x".to_owned(), BaggageError::Syntax),
        ("a b=x".to_owned(), BaggageError::Syntax),
        ("service.name=a,service.name=b".to_owned(), BaggageError::Repeated),
        ("k8s.pod.name=a,k8s.deployment.name=b".to_owned(), BaggageError::Repeated),
        ("service.name=%0a".to_owned(), BaggageError::Encoding),
        ("service.name=%ff".to_owned(), BaggageError::Encoding),
        ("service.name=%f".to_owned(), BaggageError::Encoding),
        (format!("service.name={}", "x".repeat(254)), BaggageError::Value),
        ("a=b,".repeat(64) + "a=b", BaggageError::TooMany),
        ("x".repeat(BAGGAGE_MAX + 1), BaggageError::TooLong),
    ] {
        assert_eq!(parse_baggage(&bad), Err(why), "{}", &bad[..bad.len().min(60)]);
    }
}

proptest! {
    #[test]
    fn what_parses_is_canonical(text in "\\PC{0,40}|[0-9.:\\[\\]a-f]{0,30}") {
        if let Ok(address) = parse_authority(&text) {
            prop_assert_eq!(parse_authority(&format_authority(address)), Ok(address));
        }
        if let Ok(forwarded) = parse_forwarded(&text) {
            prop_assert_eq!(parse_forwarded(&format_forwarded(&forwarded)).map(|f| f.client), Ok(forwarded.client));
        }
    }

    #[test]
    fn any_claim_survives_the_wire(name in "\\PC{0,60}", version in "[ -~]{0,60}") {
        let claims = Claims {
            service: Some(name).filter(|n| !n.is_empty()),
            version: Some(version).filter(|v| !v.is_empty()),
            ..Claims::default()
        };
        prop_assert_eq!(parse_baggage(&format_baggage(&claims)), Ok(claims));
    }
}
