//! Settings of IPv4 and IPv6 for each device (`struct ipv4_devconf`, `struct ipv6_devconf`), as `/proc/sys/net/ipv4/conf` and
//! `/proc/sys/net/ipv6/conf` show them, in the order in which rtnetlink gives them (`IPV4_DEVCONF_*` from 1, `DEVCONF_*`).

/// A name, its value for `all`, and its value for `default` and so for new devices.
type Setting = (&'static str, i32, i32);

/// `ip(7)`, `arp(7)` and the kernel's `ip-sysctl.rst`.
const IPV4: [Setting; 33] = [
    ("forwarding", 0, 0),
    ("mc_forwarding", 0, 0),
    ("proxy_arp", 0, 0),
    ("accept_redirects", 1, 1),
    ("secure_redirects", 1, 1),
    ("send_redirects", 1, 1),
    ("shared_media", 1, 1),
    ("rp_filter", 0, 0),
    ("accept_source_route", 0, 1),
    ("bootp_relay", 0, 0),
    ("log_martians", 0, 0),
    ("tag", 0, 0),
    ("arp_filter", 0, 0),
    ("medium_id", 0, 0),
    ("disable_xfrm", 0, 0),
    ("disable_policy", 0, 0),
    ("force_igmp_version", 0, 0),
    ("arp_announce", 0, 0),
    ("arp_ignore", 0, 0),
    ("promote_secondaries", 0, 0),
    ("arp_accept", 0, 0),
    ("arp_notify", 0, 0),
    ("accept_local", 0, 0),
    ("src_valid_mark", 0, 0),
    ("proxy_arp_pvlan", 0, 0),
    ("route_localnet", 0, 0),
    ("igmpv2_unsolicited_report_interval", 10000, 10000),
    ("igmpv3_unsolicited_report_interval", 1000, 1000),
    ("ignore_routes_with_linkdown", 0, 0),
    ("drop_unicast_in_l2_multicast", 0, 0),
    ("drop_gratuitous_arp", 0, 0),
    ("bc_forwarding", 0, 0),
    ("arp_evict_nocarrier", 1, 1),
];

/// The kernel's `ip-sysctl.rst`.
const IPV6: [Setting; 60] = [
    ("forwarding", 0, 0),
    ("hop_limit", 64, 64),
    ("mtu", 1280, 1280),
    ("accept_ra", 1, 1),
    ("accept_redirects", 1, 1),
    ("autoconf", 1, 1),
    ("dad_transmits", 1, 1),
    ("router_solicitations", -1, -1),
    ("router_solicitation_interval", 4, 4),
    ("router_solicitation_delay", 1, 1),
    ("use_tempaddr", 0, 0),
    ("temp_valid_lft", 604800, 604800),
    ("temp_prefered_lft", 86400, 86400),
    ("regen_max_retry", 3, 3),
    ("max_desync_factor", 600, 600),
    ("max_addresses", 16, 16),
    ("force_mld_version", 0, 0),
    ("accept_ra_defrtr", 1, 1),
    ("accept_ra_pinfo", 1, 1),
    ("accept_ra_rtr_pref", 1, 1),
    ("router_probe_interval", 60, 60),
    ("accept_ra_rt_info_max_plen", 0, 0),
    ("proxy_ndp", 0, 0),
    ("optimistic_dad", 0, 0),
    ("accept_source_route", 0, 0),
    ("mc_forwarding", 0, 0),
    ("disable_ipv6", 0, 0),
    ("accept_dad", 0, 1),
    ("force_tllao", 0, 0),
    ("ndisc_notify", 0, 0),
    ("mldv1_unsolicited_report_interval", 10000, 10000),
    ("mldv2_unsolicited_report_interval", 1000, 1000),
    ("suppress_frag_ndisc", 1, 1),
    ("accept_ra_from_local", 0, 0),
    ("use_optimistic", 0, 0),
    ("accept_ra_mtu", 1, 1),
    ("stable_secret", 0, 0),
    ("use_oif_addrs_only", 0, 0),
    ("accept_ra_min_hop_limit", 1, 1),
    ("ignore_routes_with_linkdown", 0, 0),
    ("drop_unicast_in_l2_multicast", 0, 0),
    ("drop_unsolicited_na", 0, 0),
    ("keep_addr_on_down", 0, 0),
    ("router_solicitation_max_interval", 3600, 3600),
    ("seg6_enabled", 0, 0),
    ("seg6_require_hmac", 0, 0),
    ("enhanced_dad", 1, 1),
    ("addr_gen_mode", 0, 0),
    ("disable_policy", 0, 0),
    ("accept_ra_rt_info_min_plen", 0, 0),
    ("ndisc_tclass", 0, 0),
    ("rpl_seg_enabled", 0, 0),
    ("ra_defrtr_metric", 1024, 1024),
    ("ioam6_enabled", 0, 0),
    ("ioam6_id", 65535, 65535),
    ("ioam6_id_wide", -1, -1),
    ("ndisc_evict_nocarrier", 1, 1),
    ("accept_untracked_na", 0, 0),
    ("accept_ra_min_lft", 0, 0),
    ("force_forwarding", 0, 0),
];

/// Where the settings of IPv4 stand that have a meaning here.
pub mod ipv4 {
    /// Packets that arrive here may go on.
    pub const FORWARDING: usize = 0;
    /// Groups are routed.
    pub const MC_FORWARDING: usize = 1;
    /// Answers for addresses elsewhere.
    pub const PROXY_ARP: usize = 2;
    /// Believes redirects.
    pub const ACCEPT_REDIRECTS: usize = 3;
    /// Sends redirects.
    pub const SEND_REDIRECTS: usize = 5;
    /// Drops packets whose source is elsewhere: 1 strictly, 2 loosely.
    pub const RP_FILTER: usize = 7;
    /// Takes packets that bring their route.
    pub const ACCEPT_SOURCE_ROUTE: usize = 8;
    /// Answers only where the route back is.
    pub const ARP_FILTER: usize = 12;
    /// No transformations.
    pub const DISABLE_XFRM: usize = 14;
    /// No policies of transformations.
    pub const DISABLE_POLICY: usize = 15;
    /// Which own address is told in requests.
    pub const ARP_ANNOUNCE: usize = 17;
    /// Which requests are not answered.
    pub const ARP_IGNORE: usize = 18;
    /// When the first address of a network goes, the next takes its place.
    pub const PROMOTE_SECONDARIES: usize = 19;
    /// Learns from announcements.
    pub const ARP_ACCEPT: usize = 20;
    /// Announces addresses.
    pub const ARP_NOTIFY: usize = 21;
    /// Takes packets from own addresses.
    pub const ACCEPT_LOCAL: usize = 22;
    /// 127/8 is an address as any other.
    pub const ROUTE_LOCALNET: usize = 25;
    /// Routes count only where there is a carrier.
    pub const IGNORE_ROUTES_WITH_LINKDOWN: usize = 28;
    /// Broadcasts to a network go on into it.
    pub const BC_FORWARDING: usize = 31;
}

/// Where the settings of IPv6 stand that have a meaning here.
pub mod ipv6 {
    /// Packets that arrive here may go on.
    pub const FORWARDING: usize = 0;
    /// Of packets sent.
    pub const HOP_LIMIT: usize = 1;
    /// Largest packet, in bytes.
    pub const MTU: usize = 2;
    /// Believes routers: 1 unless forwarding, 2 always.
    pub const ACCEPT_RA: usize = 3;
    /// Makes addresses of prefixes that routers announce.
    pub const AUTOCONF: usize = 5;
    /// How often it is asked whether an address is taken.
    pub const DAD_TRANSMITS: usize = 6;
    /// How often routers are asked for; -1 without end.
    pub const ROUTER_SOLICITATIONS: usize = 7;
    /// Makes temporary addresses.
    pub const USE_TEMPADDR: usize = 10;
    /// Takes default routers.
    pub const ACCEPT_RA_DEFRTR: usize = 17;
    /// Takes prefixes.
    pub const ACCEPT_RA_PINFO: usize = 18;
    /// Answers for addresses elsewhere.
    pub const PROXY_NDP: usize = 22;
    /// Addresses are used while it is being asked.
    pub const OPTIMISTIC_DAD: usize = 23;
    /// Groups are routed.
    pub const MC_FORWARDING: usize = 25;
    /// No IPv6 here.
    pub const DISABLE_IPV6: usize = 26;
    /// Whether it is asked whether an address is taken.
    pub const ACCEPT_DAD: usize = 27;
    /// Announces addresses.
    pub const NDISC_NOTIFY: usize = 29;
    /// Takes the MTU.
    pub const ACCEPT_RA_MTU: usize = 35;
    /// Routes count only where there is a carrier.
    pub const IGNORE_ROUTES_WITH_LINKDOWN: usize = 39;
    /// Addresses stay when the device goes down.
    pub const KEEP_ADDR_ON_DOWN: usize = 42;
    /// How link-local addresses are made: 0 from the link-layer address, 1 not.
    pub const ADDR_GEN_MODE: usize = 47;
    /// Metric of default routes of routers.
    pub const RA_DEFRTR_METRIC: usize = 52;
}

macro_rules! devconf {
    ($name:ident, $settings:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub [i32; $settings.len()]);

        impl Default for $name {
            fn default() -> $name {
                $name($settings.map(|(_, _, new)| new))
            }
        }

        impl $name {
            /// Those for `all` in a new namespace.
            pub fn all() -> $name {
                $name($settings.map(|(_, all, _)| all))
            }

            /// The names, in order.
            pub fn names() -> impl Iterator<Item = &'static str> {
                $settings.iter().map(|(name, ..)| *name)
            }

            /// Whether it is on, `which` being one of the constants of this module.
            pub fn is_on(&self, which: usize) -> bool {
                self.0[which] > 0
            }
        }
    };
}

devconf!(Ipv4Devconf, IPV4, "`struct ipv4_devconf`");
devconf!(Ipv6Devconf, IPV6, "`struct ipv6_devconf`");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_stand_where_their_names_do() {
        assert_eq!(Ipv4Devconf::names().nth(ipv4::PROMOTE_SECONDARIES), Some("promote_secondaries"));
        assert_eq!(Ipv6Devconf::names().nth(ipv6::DISABLE_IPV6), Some("disable_ipv6"));
        assert_eq!(Ipv6Devconf::all().0[ipv6::ACCEPT_DAD], 0);
        assert!(Ipv6Devconf::default().is_on(ipv6::ACCEPT_DAD));
    }
}
