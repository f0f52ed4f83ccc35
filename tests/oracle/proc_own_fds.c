/* oracle: root
 * What a process that may not be looked into, having become root of a user namespace, may do in its own directory of proc, and
 * with a socket that it makes (conmon changes the mode of one before it binds it). */
#include "oracle.h"
#include <sys/mount.h>
#include <sys/prctl.h>

static void map(pid_t pid, const char *which)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, which);
	put_file(path, "0 65536 65536", 0644);
}

static void inside(void)
{
	char link[64], text[64];
	struct stat st;
	T(setresgid(0, 0, 0));
	T(setresuid(0, 0, 0));
	T(prctl(PR_GET_DUMPABLE));
	int fd = M(socket(AF_UNIX, SOCK_SEQPACKET, 0));
	T(fchmod(fd, 0700));
	M(fstat(fd, &st));
	printf("%o %d:%d\n", st.st_mode, st.st_uid, st.st_gid);
	fd = M(open("/proc/sys", O_PATH));
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	M(stat("/proc/self/fd", &st));
	printf("%o %d\n", st.st_mode, st.st_uid);
	OK(readlink(link, text, sizeof text));
	T(stat(link, &st));
	T(mount("/proc/sys", link, NULL, MS_BIND, NULL));
	OK(open(link, O_RDONLY));
	OK(open("/proc/self/fd", O_RDONLY));
	OK(open("/proc/thread-self/fd", O_RDONLY));
	OK(open("/proc/self/fdinfo", O_RDONLY));
	OK(open("/proc/self/maps", O_RDONLY));
	OK(open("/proc/self/environ", O_RDONLY));
	OK(open("/proc/self/ns", O_RDONLY));
	OK(open("/proc/self/uid_map", O_WRONLY));
	OK(open("/proc/self/comm", O_WRONLY));
	snprintf(link, sizeof link, "/proc/%d/fd", getppid());
	OK(open(link, O_RDONLY));
}

int main(void)
{
	int ready[2], mapped[2];
	char c = 0;
	M(pipe(ready));
	M(pipe(mapped));
	pid_t pid = M(fork());
	if (pid == 0) {
		M(unshare(CLONE_NEWUSER | CLONE_NEWNS));
		M(write(ready[1], &c, 1));
		M(read(mapped[0], &c, 1));
		inside();
		return 0;
	}
	M(read(ready[0], &c, 1));
	map(pid, "uid_map");
	map(pid, "gid_map");
	M(write(mapped[1], &c, 1));
	reap("inside", pid);
	return 0;
}
