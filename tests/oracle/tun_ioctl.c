/* oracle: root
 * TUN and TAP descriptors (drivers/net/tun.c): what TUNSETIFF and its like accept and refuse. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/if_ether.h>
#include <linux/filter.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *e(int r) { return r < 0 ? strerrorname_np(errno) : "ok"; }

static int opened(void)
{
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
	if (fd < 0)
		printf("open: %s\n", strerrorname_np(errno));
	return fd;
}

static int set(int fd, const char *name, int flags)
{
	struct ifreq ifr;
	memset(&ifr, 0, sizeof ifr);
	strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
	ifr.ifr_flags = flags;
	int r = ioctl(fd, TUNSETIFF, &ifr);
	printf("TUNSETIFF \"%s\" %#x: %s", name, flags & 0xffff, e(r));
	if (r == 0)
		printf(" \"%s\"", ifr.ifr_name);
	printf("\n");
	return r;
}

static void get(int fd)
{
	struct ifreq ifr;
	memset(&ifr, 0, sizeof ifr);
	int r = ioctl(fd, TUNGETIFF, &ifr);
	printf("TUNGETIFF: %s \"%s\" %#x\n", e(r), ifr.ifr_name, ifr.ifr_flags & 0xffff);
}

static void queue(int fd, int flags)
{
	struct ifreq ifr;
	memset(&ifr, 0, sizeof ifr);
	ifr.ifr_flags = flags;
	printf("TUNSETQUEUE %#x: %s\n", flags, e(ioctl(fd, TUNSETQUEUE, &ifr)));
}

#define DO(call) printf(#call ": %s\n", e(call))

int main(void)
{
	struct stat st;
	int n = 0;
	if (stat("/dev/net/tun", &st) == 0)
		printf("node: %o %d\n", st.st_mode & S_IFMT, (int)st.st_rdev);
	if (unshare(CLONE_NEWNET) != 0) {
		perror("unshare");
		return 1;
	}
	int fd = opened(), other = opened();
	unsigned features = 0;
	DO(ioctl(fd, TUNGETFEATURES, &features));
	printf("features %#x\n", features & 0x7172);
	DO((int)write(fd, "x", 1));
	get(fd);
	DO(ioctl(fd, TUNSETPERSIST, 1));
	DO(ioctl(fd, TUNSETOWNER, 1));
	DO(ioctl(fd, TUNSETOFFLOAD, 0));
	queue(fd, IFF_ATTACH_QUEUE);
	queue(fd, IFF_DETACH_QUEUE);
	set(fd, "x", 0);
	set(fd, "a name too long", IFF_TUN);
	set(fd, "a/b", IFF_TUN);
	set(fd, "lo", IFF_TUN);
	set(fd, "", IFF_TUN);
	set(fd, "", IFF_TUN);
	get(fd);
	set(other, "tun0", IFF_TUN);
	set(other, "tun0", IFF_TAP);
	set(other, "tun0", IFF_TUN | IFF_TUN_EXCL);
	set(other, "tun0", IFF_TUN | IFF_MULTI_QUEUE);
	DO((int)write(fd, "x", 1));
	set(other, "vpn%d", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	get(other);
	DO(ioctl(other, TUNGETVNETHDRSZ, &n));
	printf("%d\n", n);
	n = 12;
	DO(ioctl(other, TUNSETVNETHDRSZ, &n));
	n = 9;
	DO(ioctl(other, TUNSETVNETHDRSZ, &n));
	DO(ioctl(other, TUNGETVNETHDRSZ, &n));
	printf("%d\n", n);
	n = 1;
	DO(ioctl(other, TUNSETVNETLE, &n));
	n = 7;
	DO(ioctl(other, TUNGETVNETLE, &n));
	printf("%d\n", n);
	for (int offload = 0; offload < 0x80; offload++)
		if (ioctl(other, TUNSETOFFLOAD, offload) != 0)
			printf("%#x %s ", offload, strerrorname_np(errno));
	printf("\n");
	DO(ioctl(other, TUNSETOFFLOAD, 0x10000));
	n = 1 << 20;
	DO(ioctl(other, TUNSETSNDBUF, &n));
	DO(ioctl(other, TUNGETSNDBUF, &n));
	printf("%d\n", n);
	n = 0;
	DO(ioctl(other, TUNSETSNDBUF, &n));
	DO(ioctl(other, TUNSETLINK, 1));
	struct sock_filter all[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	struct sock_fprog prog = { 1, all };
	DO(ioctl(fd, TUNATTACHFILTER, &prog));
	DO(ioctl(other, TUNATTACHFILTER, &prog));
	get(other);
	DO(ioctl(other, TUNDETACHFILTER, &prog));
	get(other);
	prog.len = 0;
	DO(ioctl(other, TUNATTACHFILTER, &prog));
	struct { struct tun_filter f; unsigned char a[12]; } flt = { { 0, 2 }, { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 } };
	DO(ioctl(fd, TUNSETTXFILTER, &flt) < 0 ? -1 : 0);
	DO(ioctl(other, TUNSETTXFILTER, &flt) < 0 ? -1 : 0);
	struct ifreq ifr;
	memset(&ifr, 0, sizeof ifr);
	DO(ioctl(other, SIOCGIFHWADDR, &ifr));
	printf("family %d, locally administered %d, group %d\n", ifr.ifr_hwaddr.sa_family,
	       ifr.ifr_hwaddr.sa_data[0] >> 1 & 1, ifr.ifr_hwaddr.sa_data[0] & 1);
	memcpy(ifr.ifr_hwaddr.sa_data, "\x02\x01\x02\x03\x04\x05", 6);
	DO(ioctl(other, SIOCSIFHWADDR, &ifr));
	memset(&ifr, 0, sizeof ifr);
	DO(ioctl(other, SIOCGIFHWADDR, &ifr));
	printf("%02x %02x\n", ifr.ifr_hwaddr.sa_data[0], ifr.ifr_hwaddr.sa_data[5]);
	n = 0;
	DO(ioctl(other, TUNSETCARRIER, &n));
	n = 1;
	DO(ioctl(other, TUNSETCARRIER, &n));
	DO(ioctl(other, 0x54ff));
	DO(ioctl(other, TUNSETIFF, NULL));
	DO(ioctl(other, TUNGETIFF, NULL));
	// Persistence: the device stays, and goes with the last descriptor when it is no longer persistent.
	DO(ioctl(fd, TUNSETPERSIST, 1));
	get(fd);
	close(fd);
	fd = opened();
	set(fd, "tun0", IFF_TUN | IFF_TUN_EXCL);
	set(fd, "tun0", IFF_TUN | IFF_NO_PI);
	get(fd);
	DO(ioctl(fd, TUNSETPERSIST, 0));
	close(fd);
	close(other);
	// Queues.
	int q[4];
	for (int i = 0; i < 4; i++)
		q[i] = opened();
	set(q[0], "mq%d", IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI);
	set(q[1], "mq0", IFF_TAP | IFF_NO_PI);
	set(q[1], "mq0", IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI);
	set(q[2], "mq0", IFF_TAP | IFF_MULTI_QUEUE);
	get(q[2]);
	queue(q[2], IFF_DETACH_QUEUE);
	queue(q[2], IFF_DETACH_QUEUE);
	get(q[2]);
	set(q[2], "other", IFF_TAP | IFF_MULTI_QUEUE);
	queue(q[2], IFF_ATTACH_QUEUE);
	queue(q[2], IFF_ATTACH_QUEUE);
	get(q[2]);
	queue(q[2], 0);
	set(q[3], "napi", IFF_TAP | IFF_NAPI | IFF_NAPI_FRAGS);
	get(q[3]);
	return 0;
}
