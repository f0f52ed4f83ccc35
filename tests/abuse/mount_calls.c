/* The calls on mounts by somebody who means harm: descriptors of the wrong kind, sizes that lie, ids of other mount namespaces,
 * and everything at once from many threads. argv: TOKEN; /ro is a read-only bind of a host directory with a file "canary". */
#include "abuse.h"
#include <pthread.h>
#include <sys/mount.h>

#define SYS_statmount 457
#define SYS_listmount 458

static const char *token;
static volatile int stop;

struct attr {
	uint64_t set, clr, propagation, userns_fd;
};
struct request {
	uint32_t size, ns_fd;
	uint64_t id, param, ns_id;
};

static void try_write(const char *how, const char *path)
{
	int fd = open(path, O_WRONLY | O_TRUNC);
	if (fd < 0) return;
	printf("ESCAPED: written by %s\n", how);
	close(fd);
}

/* What is read-only on the host stays so, however it is mounted anew. */
static void read_only(void)
{
	struct attr rw = { .clr = 1 };
	mkdir("/tmp/w", 0755);
	syscall(SYS_mount_setattr, AT_FDCWD, "/ro", 0, &rw, sizeof rw);
	try_write("mount_setattr", "/ro/canary");
	mount(NULL, "/ro", NULL, MS_REMOUNT | MS_BIND, NULL);
	try_write("a remount of the mount", "/ro/canary");
	mount(NULL, "/ro", NULL, MS_REMOUNT, NULL);
	try_write("a remount", "/ro/canary");
	int tree = syscall(SYS_open_tree, AT_FDCWD, "/ro", 1);
	syscall(SYS_mount_setattr, tree, "", 0x1000, &rw, sizeof rw);
	int fd = openat(tree, "canary", O_WRONLY);
	if (fd >= 0) printf("ESCAPED: written by a detached tree\n");
	close(fd);
	if (syscall(SYS_move_mount, tree, "", AT_FDCWD, "/tmp/w", 4) == 0) try_write("a moved tree", "/tmp/w/canary");
	umount2("/tmp/w", MNT_DETACH);
	close(tree);
	int pick = syscall(SYS_fspick, AT_FDCWD, "/ro", 0);
	syscall(SYS_fsconfig, pick, 0, "rw", NULL, 0);
	syscall(SYS_fsconfig, pick, 7, NULL, NULL, 0);
	try_write("fspick", "/ro/canary");
	int again = syscall(SYS_fsmount, pick, 0, 0);
	if (again >= 0 && syscall(SYS_move_mount, again, "", AT_FDCWD, "/tmp/w", 4) == 0) try_write("fsmount of a picked one", "/tmp/w/canary");
	umount2("/tmp/w", MNT_DETACH);
	close(again);
	close(pick);
	if (mount("/ro", "/tmp/w", NULL, MS_BIND, NULL) == 0) {
		mount(NULL, "/tmp/w", NULL, MS_REMOUNT | MS_BIND, NULL);
		try_write("a bind", "/tmp/w/canary");
		umount2("/tmp/w", MNT_DETACH);
	}
	mkdir("/tmp/up", 0755);
	mkdir("/tmp/work", 0755);
	if (mount("o", "/tmp/w", "overlay", 0, "lowerdir=/ro,upperdir=/tmp/up,workdir=/tmp/work") == 0) {
		fd = open("/tmp/w/canary", O_WRONLY | O_TRUNC);
		write(fd, "changed", 7);
		close(fd);
		umount2("/tmp/w", MNT_DETACH);
	}
	mount("o", "/tmp/w", "overlay", 0, "lowerdir=/tmp/up,upperdir=/ro,workdir=/ro");
	umount2("/tmp/w", MNT_DETACH);
}

/* Every call with every kind of descriptor, and with sizes that lie. */
static void wrong_descriptors(void)
{
	int pair[2], fds[24], n = 0;
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 4096, 4096);
	pipe(pair);
	fds[n++] = -1;
	fds[n++] = AT_FDCWD;
	fds[n++] = pair[0];
	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
	fds[n++] = pair[0];
	fds[n++] = open("/etc/hostname", O_RDONLY);
	fds[n++] = open("/", O_RDONLY);
	fds[n++] = open("/proc", O_PATH);
	fds[n++] = open("/proc/self/ns/mnt", O_RDONLY);
	fds[n++] = open("/proc/self/mountinfo", O_RDONLY);
	fds[n++] = open("/dev/null", O_RDWR);
	fds[n++] = syscall(SYS_memfd_create, "x", 0);
	fds[n++] = syscall(SYS_fsopen, "tmpfs", 0);
	fds[n++] = syscall(SYS_fspick, AT_FDCWD, "/tmp", 0);
	fds[n++] = syscall(SYS_open_tree, AT_FDCWD, "/tmp", 1);
	fds[n++] = syscall(SYS_open_tree, AT_FDCWD, "/proc", 0);
	int made = syscall(SYS_fsopen, "tmpfs", 0);
	syscall(SYS_fsconfig, made, 6, NULL, NULL, 0);
	fds[n++] = made;
	fds[n++] = syscall(SYS_fsmount, syscall(SYS_fsconfig, fds[11], 6, NULL, NULL, 0) ? -1 : fds[11], 0, 0);
	for (int hidden = 1024; hidden < 1031 && n < 24; hidden += 2) fds[n++] = hidden;
	const uint64_t sizes[] = { 0, 1, 23, 24, 31, 32, 33, 40, 4095, 4096, 4097, 1ul << 31, 1ul << 32, -1ul };
	const int count = sizeof sizes / sizeof *sizes;
	for (int a = 0; a < n; a++) {
		for (int b = 0; b < n; b++) {
			syscall(SYS_fsconfig, fds[a], rng() % 9, "source", "x", fds[b]);
			syscall(SYS_fsconfig, fds[a], 5, "fd", NULL, fds[b]);
			syscall(SYS_fsconfig, fds[a], 3, "source", "", fds[b]);
			struct attr idmap = { .set = 0x100000, .userns_fd = fds[b] };
			syscall(SYS_mount_setattr, fds[a], "", 0x1000, &idmap, sizeof idmap);
			if (fds[b] > 2 || fds[b] == -1) syscall(SYS_move_mount, fds[a], "", fds[b], "", 4 | 0x40);
		}
		for (int s = 0; s < count; s++) {
			memset(page, rng() % 2 ? 0xff : 0, 4096);
			struct request request = { .size = sizes[s], .ns_fd = fds[a], .id = rng() % 3 ? -1 : 1ul << 31, .param = rng() };
			syscall(SYS_mount_setattr, fds[a], "", 0x1000, page, sizes[s]);
			syscall(SYS_mount_setattr, fds[a], "", 0x1000 | 0x8000, page + 4096 - 16, sizes[s]);
			syscall(SYS_statmount, &request, page, sizes[s], 0);
			syscall(SYS_statmount, page + 4096 - 8, page, sizes[s], 0);
			syscall(SYS_statmount, &request, page + 4000, sizes[s], 0);
			syscall(SYS_listmount, &request, page, sizes[s], 0);
			syscall(SYS_listmount, &request, page + 4080, sizes[s], rng() % 2);
			syscall(SYS_fsconfig, fds[a], 2, "key", page, sizes[s]);
		}
		memset(page, 'k', 4096);
		syscall(SYS_fsconfig, fds[a], 1, page, page, 0);
		syscall(SYS_fsconfig, fds[a], 1, "source", page, 0);
		syscall(SYS_fsconfig, fds[a], 0, page + 4000, NULL, 0);
		syscall(SYS_fsmount, fds[a], rng(), rng());
		syscall(SYS_fspick, fds[a], "", 8);
		syscall(SYS_open_tree, fds[a], "", 0x1000 | 1 | rng() % 2 * 0x8000);
	}
	for (int i = 0; i < n; i++)
		if (fds[i] > 2 && fds[i] < 1024) close(fds[i]);
	munmap(page, 4096);
}

/* Whether any of the mounts this process can list is at a place that has the token in its name. */
static int knows_token(const uint64_t *ids, int n)
{
	char room[4096];
	for (int i = 0; i < n; i++) {
		struct request request = { .size = 24, .id = ids[i], .param = 0x10 | 0x8 | 0x20 };
		memset(room, 0, sizeof room);
		if (syscall(SYS_statmount, &request, room, sizeof room, 0) == 0 && memmem(room, sizeof room, token, strlen(token))) return 1;
	}
	return 0;
}

/* Ids and descriptors of a mount namespace that the child is not in and has no power over. */
static void foreign(void)
{
	char secret[128];
	int ready[2], go[2], ns = open("/proc/self/ns/mnt", O_RDONLY), root = open("/", O_RDONLY);
	uint64_t ids[512];
	pipe(ready);
	pipe(go);
	pid_t child = fork();
	if (!child) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) {
			printf("FAILED: a user namespace: %s\n", strerror(errno));
			_exit(1);
		}
		write(ready[1], "x", 1);
		char c;
		read(go[0], &c, 1);
		int n;
		read(go[0], &n, sizeof n);
		for (int have = 0; have < n * 8;) {
			int r = read(go[0], (char *)ids + have, n * 8 - have);
			if (r <= 0) break;
			have += r;
		}
		if (knows_token(ids, n)) printf("ESCAPED: statmount of a mount of another namespace\n");
		struct request request = { .size = 24, .id = -1 };
		uint64_t own[512];
		long got = syscall(SYS_listmount, &request, own, 512, 0);
		if (got > 0 && knows_token(own, got)) printf("ESCAPED: listmount of another namespace\n");
		/* With the number or the descriptor of the other one. */
		uint64_t number = 0;
		ioctl(ns, 0x8008b705, &number);
		for (int i = 0; i < 2; i++) {
			struct request other = { .size = 32, .ns_fd = i ? ns : 0, .id = -1, .ns_id = i ? 0 : number };
			got = syscall(SYS_listmount, &other, own, 512, 0);
			if (got > 0 && number && knows_token(own, got)) printf("ESCAPED: listmount by number\n");
		}
		int tree = syscall(SYS_open_tree, root, "tmp", 1 | 0x8000);
		if (tree >= 0) printf("ESCAPED: a copy of a tree of another namespace\n");
		snprintf(secret, sizeof secret, "/proc/self/fd/%d/tmp/%s", root, token);
		if (umount2(secret, MNT_DETACH) == 0) printf("ESCAPED: umount in another namespace\n");
		if (mount("t", secret, "tmpfs", 0, NULL) == 0) printf("ESCAPED: mounted in another namespace\n");
		if (syscall(SYS_move_mount, root, secret + strlen(secret) - strlen(token), AT_FDCWD, "/mnt", 0) == 0) printf("ESCAPED: moved out of another namespace\n");
		struct attr ro = { .set = 1 };
		if (syscall(SYS_mount_setattr, AT_FDCWD, secret, 0, &ro, sizeof ro) == 0) printf("ESCAPED: changed in another namespace\n");
		if (setns(ns, CLONE_NEWNS) == 0) printf("ESCAPED: entered it\n");
		_exit(0);
	}
	char c;
	read(ready[0], &c, 1);
	snprintf(secret, sizeof secret, "/tmp/%s", token);
	mkdir(secret, 0755);
	if (mount("secret", secret, "tmpfs", 0, NULL)) printf("FAILED: mount\n");
	struct request all = { .size = 24, .id = -1 };
	int n = syscall(SYS_listmount, &all, ids, 512, 0);
	if (n <= 0 || !knows_token(ids, n)) printf("FAILED: the owner does not see it: %d %s\n", n, strerror(errno));
	write(go[1], "x", 1);
	write(go[1], &n, sizeof n);
	write(go[1], ids, n * 8);
	reap_within(child, 10000);
	struct stat st;
	char below[160];
	snprintf(below, sizeof below, "%s/f", secret);
	int fd = open(below, O_CREAT | O_WRONLY, 0600);
	if (fd < 0 || stat(secret, &st)) printf("ESCAPED: the other namespace's mount was changed\n");
	close(fd);
	umount2(secret, MNT_DETACH);
	close(ns);
	close(root);
}

static int shared_fds[8];

static void *worker(void *arg)
{
	rng_state += (uintptr_t)arg * 0x9e3779b97f4a7c15;
	char room[4096];
	const char *places[] = { "/tmp/r/a", "/tmp/r/b", "/tmp/r/a/c", "/tmp/r", "/tmp/r/link", "/tmp/r/b/.." };
	while (!stop) {
		const char *p = places[rng() % 6], *q = places[rng() % 6];
		int *slot = &shared_fds[rng() % 8];
		struct attr attr = { rng() % 2 ? 1 : 0, 0, rng() % 3 ? 0 : 1ul << (17 + rng() % 4), 0 };
		struct request request = { .size = 24, .id = rng() % 2 ? -1 : (1ul << 31) + rng() % 300, .param = 0x7f };
		switch (rng() % 16) {
		case 0: *slot = syscall(SYS_fsopen, rng() % 2 ? "tmpfs" : "proc", 1); break;
		case 1: syscall(SYS_fsconfig, *slot, 1, "size", "1m", 0); break;
		case 2: syscall(SYS_fsconfig, *slot, 6 + rng() % 3, NULL, NULL, 0); break;
		case 3: *slot = syscall(SYS_fsmount, *slot, 1, 0); break;
		case 4: syscall(SYS_move_mount, *slot, "", AT_FDCWD, p, 4); break;
		case 5: *slot = syscall(SYS_open_tree, AT_FDCWD, p, 1 | 0x80000 | rng() % 2 * 0x8000); break;
		case 6: syscall(SYS_move_mount, AT_FDCWD, p, AT_FDCWD, q, rng() % 2 ? 0 : 0x200); break;
		case 7: syscall(SYS_mount_setattr, AT_FDCWD, p, rng() % 2 * 0x8000, &attr, sizeof attr); break;
		case 8: *slot = syscall(SYS_fspick, AT_FDCWD, p, 0); break;
		case 9: umount2(p, rng() % 2 ? MNT_DETACH : rng() % 2 ? MNT_EXPIRE : 0); break;
		case 10: mount(p, q, NULL, MS_BIND | (rng() % 2 ? MS_REC : 0), NULL); break;
		case 11: syscall(SYS_listmount, &request, room, 512, 0); break;
		case 12: syscall(SYS_statmount, &request, room, sizeof room, 0); break;
		case 13: close(*slot); break;
		case 14:
			unlink("/tmp/r/link");
			symlink(rng() % 2 ? "a" : rng() % 2 ? "../../ro" : "b/..", "/tmp/r/link");
			break;
		default:
			if (rng() % 8 == 0) syscall(SYS_pivot_root, p, q);
			mkdir(p, 0755);
			rename(p, q);
		}
	}
	return NULL;
}

/* All of it at once, in a mount namespace of its own; the bind stays read-only meanwhile. */
static void race(void)
{
	pid_t child = fork();
	if (!child) {
		pthread_t t[6];
		if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) printf("FAILED: unshare\n");
		mkdir("/tmp/r", 0755);
		mount("r", "/tmp/r", "tmpfs", 0, NULL);
		mkdir("/tmp/r/a", 0755);
		mkdir("/tmp/r/b", 0755);
		mkdir("/tmp/r/a/c", 0755);
		mount(NULL, "/tmp/r", NULL, MS_SHARED, NULL);
		memset(shared_fds, -1, sizeof shared_fds);
		for (long i = 0; i < 6; i++) pthread_create(&t[i], NULL, worker, (void *)(i + 1));
		for (int i = 0; i < 40; i++) {
			try_write("a race", "/tmp/r/link/canary");
			msleep(100);
		}
		stop = 1;
		for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
		_exit(0);
	}
	int st = reap_within(child, 40000);
	if (st) printf("FAILED: the race ended with %#x\n", st);
}

int main(int argc, char **argv)
{
	token = argv[1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	read_only();
	pid_t child = fork();
	if (!child) {
		if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) printf("FAILED: unshare\n");
		wrong_descriptors();
		_exit(0);
	}
	int st = reap_within(child, 30000);
	if (st) printf("FAILED: descriptors: %#x\n", st);
	foreign();
	race();
	struct stat s;
	if (stat("/tmp", &s) || mount("t", "/tmp/w", "tmpfs", 0, NULL)) printf("FAILED: afterwards: %s\n", strerror(errno));
	printf("done\n");
	return 0;
}
