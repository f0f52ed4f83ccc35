//! Under which names the sandbox knows an address.
//!
//! Rules that name hosts are about what the sandbox has *resolved*: its queries pass through Nomina's resolver, which notes the
//! answers here. A program that invents an address gets nowhere by a name, and one that resolves an allowed name gets exactly the
//! addresses that name has. Entries outlive the time that the answer gives, as programs use addresses longer than that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::pattern::{canonical, unmapped};

/// How long a name is remembered beyond its time to live.
const LINGER: Duration = Duration::from_secs(300);
/// Most addresses, and most names of one, that are remembered: a hostile program resolves without end.
const MAX_ADDRESSES: usize = 16384;
const MAX_NAMES: usize = 32;

/// Names by address.
#[derive(Debug, Default)]
pub struct NameCache(HashMap<IpAddr, Vec<(String, Instant)>>);

impl NameCache {
    /// Notes at `now` that `name` has `address` for `ttl`.
    pub fn note(&mut self, name: &str, address: IpAddr, ttl: Duration, now: Instant) {
        let Some(until) = now.checked_add(ttl.min(Duration::from_secs(86400)) + LINGER) else { return };
        if self.0.len() >= MAX_ADDRESSES {
            self.0.retain(|_, names| names.iter().any(|(_, until)| *until > now));
            // All are in use: who floods loses all, which costs him a query for each.
            if self.0.len() >= MAX_ADDRESSES {
                self.0.clear();
            }
        }
        let names = self.0.entry(unmapped(address)).or_default();
        let name = canonical(name);
        names.retain(|(known, until)| *known != name && *until > now);
        if names.len() >= MAX_NAMES {
            names.remove(0);
        }
        names.push((name, until));
    }

    /// The names that `address` has at `now`.
    pub fn names_of(&self, address: IpAddr, now: Instant) -> Vec<String> {
        let names = self.0.get(&unmapped(address)).into_iter().flatten();
        names.filter(|(_, until)| *until > now).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_for_its_time_and_a_little_longer() {
        let mut cache = NameCache::default();
        let (now, address) = (Instant::now(), "192.0.2.1".parse().unwrap());
        cache.note("Example.com.", address, Duration::from_secs(60), now);
        assert_eq!(cache.names_of(address, now + Duration::from_secs(300)), ["example.com"]);
        assert_eq!(cache.names_of(address, now + Duration::from_secs(361)), [""; 0]);
        assert_eq!(cache.names_of("192.0.2.2".parse().unwrap(), now), [""; 0]);
    }

    #[test]
    fn a_flood_of_answers_does_not_grow_it_without_end() {
        let mut cache = NameCache::default();
        let now = Instant::now();
        for n in 0..40_000u32 {
            cache.note("a", IpAddr::V4(n.into()), Duration::from_secs(60), now);
        }
        for n in 0..100 {
            cache.note(&format!("n{n}"), "192.0.2.1".parse().unwrap(), Duration::from_secs(60), now);
        }
        assert!(cache.0.len() <= MAX_ADDRESSES);
        assert_eq!(cache.names_of("192.0.2.1".parse().unwrap(), now).len(), MAX_NAMES);
    }
}
