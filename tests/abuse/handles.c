/* Forged file handles: what was never given out leads nowhere, and nothing is reached past the mount that the descriptor is of.
 * argv: TOKEN SECRET CANARY ... ; the host's own handle of its secret is tried too. */
#include "abuse.h"
#include <pthread.h>
#include <sys/mount.h>

union handle {
	struct file_handle h;
	struct {
		uint32_t bytes;
		int32_t type;
		uint32_t generation;
		uint64_t ino;
	} __attribute__((packed)) f;
	char room[8 + 128];
};

static const char *token;
static volatile int stop;

static int get(const char *path, union handle *out)
{
	int id;
	out->h.handle_bytes = 128;
	return name_to_handle_at(AT_FDCWD, path, &out->h, &id, 0);
}

static void reached(const char *what, int fd)
{
	if (fd < 0) return;
	if (holds_token(fd, token)) printf("ESCAPED %s\n", what);
	close(fd);
}

/* Names come and go while handles of them are made and opened. */
static void *churn(void *arg)
{
	char a[32], b[32];
	for (unsigned i = 0; !stop; i++) {
		snprintf(a, sizeof a, "/mnt/c%u", i % 50);
		snprintf(b, sizeof b, "/mnt/d/c%u", i % 37);
		close(open(a, O_CREAT | O_WRONLY, 0600));
		mkdir(b, 0700);
		rename(a, b);
		rename(b, a);
		link(a, b);
		unlink(a);
		rmdir(b);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	token = argv[1];
	union handle outer, handle, other;
	mkdir("/tmp/own", 0755);
	mkdir("/tmp/own/below", 0755);
	int fd = open("/tmp/own/token", O_CREAT | O_WRONLY, 0600);
	write(fd, token, strlen(token));
	close(fd);
	if (get("/tmp/own/token", &outer)) printf("no handle: %s\n", strerror(errno));
	/* By the whole mount it is a way to the file; by a bind of a directory beside it, or by another instance, none. */
	int root = open("/tmp", O_RDONLY);
	fd = open_by_handle_at(root, &outer.h, O_RDONLY);
	if (fd < 0 || !holds_token(fd, token)) printf("FAILED: an honest handle: %s\n", strerror(errno));
	close(fd);
	mkdir("/tmp/bind", 0755);
	if (mount("/tmp/own/below", "/tmp/bind", NULL, MS_BIND, NULL)) printf("FAILED: bind\n");
	int bind = open("/tmp/bind", O_RDONLY);
	reached("above the root of a bind", open_by_handle_at(bind, &outer.h, O_RDONLY));
	if (get("/tmp/own", &handle) == 0 && open_by_handle_at(bind, &handle.h, O_RDONLY | O_DIRECTORY) >= 0) printf("ESCAPED above the root of a bind\n");
	mount("mnt", "/mnt", "tmpfs", 0, NULL);
	mkdir("/mnt/d", 0755);
	int mnt = open("/mnt", O_RDONLY), proc = open("/proc", O_RDONLY), dev = open("/dev", O_RDONLY), cgroup = open("/sys/fs/cgroup", O_RDONLY);
	/* The last three are of the mount that the handle is of. */
	int at[] = { bind, mnt, proc, dev, cgroup, 0, -1, 1024, 1027, AT_FDCWD, root, open("/etc/hostname", O_RDONLY) };
	const int places = sizeof at / sizeof *at;
	/* The host's file systems make handles of type 1 of a number and a generation, which is none of ours. */
	struct stat st;
	for (int i = 2; i < argc && i < 4; i++)
		for (int generation = 0; generation < 300; generation++) {
			uint64_t ino = stat(argv[i], &st) ? 2 + generation : st.st_ino;
			handle.f.bytes = 8;
			handle.f.type = 1;
			memcpy(handle.h.f_handle, &ino, 4);
			memcpy(handle.h.f_handle + 4, &generation, 4);
			for (int p = 0; p < places; p++) reached("by the host's handle", open_by_handle_at(at[p], &handle.h, O_RDONLY));
		}
	pthread_t t;
	pthread_create(&t, NULL, churn, NULL);
	for (int i = 0; i < 8000; i++) {
		char name[32];
		snprintf(name, sizeof name, "/mnt/c%d", (int)(rng() % 50));
		if (get(rng() % 9 ? name : "/mnt/d", &other) == 0) {
			fd = open_by_handle_at(mnt, &other.h, rng() % 2 ? O_RDONLY : O_PATH);
			if (fd >= 0 && fstat(fd, &st)) printf("FAILED: fstat: %s\n", strerror(errno));
			reached("by a handle of what moves", fd);
		}
		/* Near what was given out, and far from it. */
		handle = rng() % 2 ? outer : other;
		switch (rng() % 6) {
		case 0: handle.f.generation += rng() % 5 - 2; break;
		case 1: handle.f.ino += rng() % 5 - 2; break;
		case 2: handle.f.generation = rng() % 40; break;
		case 3: handle.f.type = rng(); break;
		case 4: handle.f.bytes = rng() % 160; break;
		default: for (int j = 0; j < 12; j++) handle.h.f_handle[j] ^= rng() % 64 ? 0 : 1 << rng() % 8;
		}
		reached("by a forged handle", open_by_handle_at(at[rng() % (places - 3)], &handle.h, O_RDONLY));
	}
	stop = 1;
	pthread_join(t, NULL);
	/* More handles than are remembered. */
	for (int i = 0; i < 17000; i++) {
		close(open("/mnt/many", O_CREAT | O_WRONLY, 0600));
		get("/mnt/many", &other);
		unlink("/mnt/many");
		if (i % 1000 == 0 && open_by_handle_at(mnt, &other.h, O_RDONLY) >= 0) printf("FAILED: a removed file\n");
	}
	/* Past the shim: the host makes no handle, and opens none. */
	pid_t child = fork();
	if (!child) {
		uintptr_t site = shim_call_site();
		if (!site) _exit(1);
		handle.f.bytes = 128;
		if (shim6(site, SYS_name_to_handle_at, -100, (long)argv[2], (long)&handle, (long)&fd, 0, 0) == 0) printf("ESCAPED: the host made a handle\n");
		reached("from the shim's text", shim6(site, SYS_open_by_handle_at, bind, (long)&outer, 0, 0, 0, 0));
		_exit(0);
	}
	reap_within(child, 10000);
	/* Without the capability. */
	child = fork();
	if (!child) {
		if (setresuid(1000, 1000, 1000)) _exit(1);
		reached("without the capability", open_by_handle_at(root, &outer.h, O_RDONLY));
		_exit(0);
	}
	waitpid(child, NULL, 0);
	child = fork();
	if (!child) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) _exit(1);
		reached("in a user namespace", open_by_handle_at(root, &outer.h, O_RDONLY));
		_exit(0);
	}
	waitpid(child, NULL, 0);
	printf("done\n");
	return 0;
}
