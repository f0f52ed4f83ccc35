/* Mounts without end, and whoever makes the supervisor look at all guests: the limit answers ENOSPC, and others are served. */
#include "abuse.h"
#include <sys/mount.h>

#define HOLDERS 6
#define FILES 400

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	printf("FAILED %s: %s\n", what, strerror(errno));
}

static int rbind(const char *from, const char *to)
{
	return mount(from, to, NULL, MS_BIND | MS_REC, NULL);
}

/* Doubles what there is until the limit says no. */
static void bomb(void)
{
	int tables[100];
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return fail("unshare");
	mkdir("/tmp/bomb", 0755);
	if (mount("bomb", "/tmp/bomb", "tmpfs", 0, NULL)) return fail("tmpfs");
	mkdir("/tmp/bomb/a", 0755);
	mkdir("/tmp/bomb/b", 0755);
	mount(NULL, "/tmp/bomb", NULL, MS_SHARED, NULL);
	/* Views of the table that must follow. */
	for (int i = 0; i < 100; i++) tables[i] = open("/proc/self/mountinfo", O_RDONLY);
	int i = 0;
	for (; i < 40; i++)
		if (rbind("/tmp/bomb", i % 2 ? "/tmp/bomb/a" : "/tmp/bomb/b")) break;
	if (errno != ENOSPC) fail("the limit of mounts");
	if (i > 20) fail("mounts without end");
	for (int j = 0; j < 100; j++) close(tables[j]);
	if (umount2("/tmp/bomb", MNT_DETACH)) fail("umount");
	if (mount("again", "/tmp/bomb", "tmpfs", 0, NULL)) fail("mount after the limit");
}

/* Has many files open, and has the supervisor look at everybody's, again and again. */
static void holder(int number)
{
	char name[64], file[96];
	struct { uint64_t set, clr, propagation, userns; } attr = { 1, 0, 0, 0 };
	snprintf(name, sizeof name, "/tmp/hold%d", number);
	mkdir(name, 0755);
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) fail("a user namespace");
	int map = open("/proc/self/uid_map", O_WRONLY);
	if (write(map, "0 0 1", 5) != 5) fail("the map");
	close(map);
	map = open("/proc/self/setgroups", O_WRONLY);
	if (write(map, "deny", 4) != 4) fail("setgroups");
	close(map);
	map = open("/proc/self/gid_map", O_WRONLY);
	if (write(map, "0 0 1", 5) != 5) fail("the map of groups");
	close(map);
	if (mount("hold", name, "tmpfs", 0, NULL)) fail("mounting");
	for (int i = 0; i < FILES; i++) {
		snprintf(file, sizeof file, "%s/%d", name, i);
		if (open(file, O_CREAT | O_RDWR, 0600) < 0) break;
	}
	char below[96];
	snprintf(below, sizeof below, "%s/d", name);
	mkdir(below, 0755);
	for (int i = 0; i < 30; i++) mount("hold", below, "tmpfs", 0, NULL);
	double start = now();
	while (now() - start < 4) {
		syscall(SYS_mount_setattr, AT_FDCWD, name, AT_RECURSIVE, &attr, sizeof attr);
		mount(NULL, name, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
		if (umount2(name, 0) == 0) fail("a busy mount was unmounted");
	}
	_exit(0);
}

int main(void)
{
	pid_t pids[HOLDERS + 1];
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 0; i < HOLDERS; i++)
		if (!(pids[i] = fork())) holder(i);
	if (!(pids[HOLDERS] = fork())) {
		bomb();
		_exit(0);
	}
	double start = now(), slowest = 0;
	unsigned served = 0;
	struct stat st;
	while (now() - start < 4) {
		double before = now();
		if (stat("/etc/hostname", &st)) fail("stat");
		served++;
		if (now() - before > slowest) slowest = now() - before;
		msleep(1);
	}
	for (int i = 0; i <= HOLDERS; i++) {
		int status;
		waitpid(pids[i], &status, 0);
		if (status) printf("FAILED %d: status %#x\n", i, status);
	}
	printf("served %s, the slowest in %s\n", served > 20 ? "many" : "few", slowest < 5 ? "time" : "too long");
	fprintf(stderr, "%u requests, the slowest %.3f s\n", served, slowest);
	return 0;
}
