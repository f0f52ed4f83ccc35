/* oracle: root
 * name_to_handle_at(2), open_by_handle_at(2): sizes, flags, what keeps a handle and what makes it stale; and quotactl(2) on file
 * systems without quotas. On a tmpfs of its own and on proc. */
#include "oracle.h"
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/quota.h>
#include <linux/capability.h>

#define HANDLE_FID 0x200
#define MNT_ID_UNIQUE 1
#define CONNECTABLE 2

typedef union {
	struct file_handle h;
	char room[sizeof(struct file_handle) + 128];
} handle;

/* The handle of a path: its size is asked first. */
static int get(const char *path, int flags, handle *out)
{
	int id;
	out->h.handle_bytes = 0;
	if (name_to_handle_at(AT_FDCWD, path, &out->h, &id, flags) == -1 && errno != EOVERFLOW)
		return -1;
	return name_to_handle_at(AT_FDCWD, path, &out->h, &id, flags);
}

static int same(handle *a, handle *b)
{
	return a->h.handle_bytes == b->h.handle_bytes && a->h.handle_type == b->h.handle_type &&
	       !memcmp(a->h.f_handle, b->h.f_handle, a->h.handle_bytes);
}

static char here[4096];

static void show(int fd)
{
	char text[64];
	if (fd < 0) {
		printf("  %s\n", name_of(errno));
		return;
	}
	ssize_t n = read(fd, text, sizeof text - 1);
	char link[64], path[256];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t l = readlink(link, path, sizeof path - 1);
	path[l < 0 ? 0 : l] = 0;
	printf("  %s \"%.*s\"\n", path + strlen(here), n < 0 ? 0 : (int)n, text);
	close(fd);
}

static void sizes(void)
{
	handle a, b;
	int id = -1, id2 = -1;
	uint64_t unique = 0;
	a.h.handle_bytes = 0;
	a.h.handle_type = 7;
	T(name_to_handle_at(AT_FDCWD, "m/f", &a.h, &id, 0));
	printf("  %u bytes, type %d, mount id %s\n", a.h.handle_bytes, a.h.handle_type, id == -1 ? "not told" : "told");
	a.h.handle_bytes--;
	T(name_to_handle_at(AT_FDCWD, "m/f", &a.h, &id, 0));
	printf("  %u bytes\n", a.h.handle_bytes);
	T(name_to_handle_at(AT_FDCWD, "m/f", &a.h, &id2, 0));
	printf("  %u bytes, type %d, same id %d\n", a.h.handle_bytes, a.h.handle_type, id == id2);
	b.h.handle_bytes = 128;
	T(name_to_handle_at(AT_FDCWD, "m/f", &b.h, &id2, HANDLE_FID));
	printf("  %u bytes, same %d\n", b.h.handle_bytes, same(&a, &b));
	T(name_to_handle_at(AT_FDCWD, "m/f", &b.h, (int *)&unique, MNT_ID_UNIQUE));
	printf("  unique id is large: %d\n", unique > 1u << 31);
	b.h.handle_bytes = 129;
	T(name_to_handle_at(AT_FDCWD, "m/f", &b.h, &id2, 0));
	b.h.handle_bytes = 128;
	T(name_to_handle_at(AT_FDCWD, "m/none", &b.h, &id2, 0));
	T(name_to_handle_at(AT_FDCWD, "m/f", &b.h, &id2, 0x4));
	T(name_to_handle_at(AT_FDCWD, "m/f", &b.h, &id2, HANDLE_FID | CONNECTABLE));
	T(name_to_handle_at(AT_FDCWD, "m/f", &b.h, &id2, CONNECTABLE));
	T(name_to_handle_at(AT_FDCWD, "m/f", NULL, &id2, 0));
	T(name_to_handle_at(AT_FDCWD, "m/f", &b.h, NULL, 0));
	T(name_to_handle_at(99, "f", &b.h, &id2, 0));
	T(name_to_handle_at(AT_FDCWD, "", &b.h, &id2, 0));
	int fd = M(open("m/f", O_RDONLY)), path = M(open("m/l", O_PATH | O_NOFOLLOW));
	b.h.handle_bytes = 128;
	T(name_to_handle_at(fd, "", &b.h, &id2, AT_EMPTY_PATH));
	printf("  same %d, same id %d\n", same(&a, &b), id == id2);
	T(name_to_handle_at(AT_FDCWD, "m/l", &b.h, &id2, AT_SYMLINK_FOLLOW));
	printf("  same %d\n", same(&a, &b));
	T(name_to_handle_at(AT_FDCWD, "m/l", &b.h, &id2, 0));
	printf("  same %d\n", same(&a, &b));
	get("m/l", 0, &a);
	T(name_to_handle_at(path, "", &b.h, &id2, AT_EMPTY_PATH));
	printf("  same %d\n", same(&a, &b));
	T(get("m/hard", 0, &b));
	T(get("m/f", 0, &a));
	printf("  same %d\n", same(&a, &b));
	T(get("/proc/self/status", 0, &b));
	T(get("/proc/self/status", HANDLE_FID, &b));
	printf("  %u bytes\n", b.h.handle_bytes);
	close(fd);
	close(path);
}

static void opening(int at)
{
	handle f, d, l, bad;
	M(get("m/f", 0, &f));
	M(get("m/d", 0, &d));
	M(get("m/l", 0, &l));
	show(open_by_handle_at(at, &f.h, O_RDONLY));
	show(open_by_handle_at(AT_FDCWD, &f.h, O_RDONLY));
	show(open_by_handle_at(at, &d.h, O_RDONLY | O_DIRECTORY));
	show(open_by_handle_at(at, &d.h, O_RDWR));
	show(open_by_handle_at(at, &f.h, O_RDONLY | O_DIRECTORY));
	show(open_by_handle_at(at, &l.h, O_RDONLY));
	show(open_by_handle_at(at, &l.h, O_PATH | O_NOFOLLOW));
	int fd = open_by_handle_at(at, &f.h, O_RDWR | O_APPEND);
	T(write(fd, "more", 4));
	close(fd);
	show(open_by_handle_at(at, &f.h, O_WRONLY | O_TRUNC));
	bad = f;
	bad.h.handle_bytes = 0;
	T(open_by_handle_at(at, &bad.h, O_RDONLY));
	bad.h.handle_bytes = 129;
	T(open_by_handle_at(at, &bad.h, O_RDONLY));
	bad = f;
	bad.h.handle_bytes -= 4;
	T(open_by_handle_at(at, &bad.h, O_RDONLY));
	bad = f;
	bad.h.handle_type = -1;
	T(open_by_handle_at(at, &bad.h, O_RDONLY));
	bad = f;
	memset(bad.h.f_handle, 0x5a, bad.h.handle_bytes);
	T(open_by_handle_at(at, &bad.h, O_RDONLY));
	T(open_by_handle_at(99, &f.h, O_RDONLY));
	T(open_by_handle_at(at, NULL, O_RDONLY));
	int proc = M(open("/proc", O_RDONLY)), path = M(open("m", O_PATH));
	T(open_by_handle_at(proc, &f.h, O_RDONLY));
	T(open_by_handle_at(path, &f.h, O_RDONLY));
	close(proc);
	close(path);
}

static void lifetime(int at)
{
	handle f, d, again;
	put_file("m/x", "x", 0644);
	M(get("m/x", 0, &f));
	M(rename("m/x", "m/d/y"));
	show(open_by_handle_at(at, &f.h, O_RDONLY));
	M(get("m/d/y", 0, &again));
	printf("  same %d\n", same(&f, &again));
	M(get("m/d", 0, &d));
	M(rename("m/d", "m/e"));
	show(open_by_handle_at(at, &f.h, O_RDONLY));
	show(open_by_handle_at(at, &d.h, O_RDONLY));
	M(unlink("m/e/y"));
	show(open_by_handle_at(at, &f.h, O_RDONLY));
	M(rmdir("m/e"));
	show(open_by_handle_at(at, &d.h, O_RDONLY));
	/* A directory that is open lives on. */
	M(mkdir("m/e", 0755));
	M(get("m/e", 0, &d));
	int held = M(open("m/e", O_RDONLY));
	M(rmdir("m/e"));
	show(open_by_handle_at(at, &d.h, O_RDONLY));
	close(held);
	show(open_by_handle_at(at, &d.h, O_RDONLY));
	/* A file under the name of another. */
	put_file("m/one", "one", 0644);
	put_file("m/two", "two", 0644);
	M(get("m/one", 0, &f));
	M(get("m/two", 0, &again));
	M(rename("m/one", "m/two"));
	show(open_by_handle_at(at, &f.h, O_RDONLY));
	show(open_by_handle_at(at, &again.h, O_RDONLY));
	/* Of an instance, not of the mount. */
	M(mkdir("n", 0755));
	M(mount("n", "n", "tmpfs", 0, ""));
	int other = M(open("n", O_RDONLY));
	show(open_by_handle_at(other, &f.h, O_RDONLY));
	close(other);
	M(umount("n"));
	M(mount("m", "n", NULL, MS_BIND, NULL));
	other = M(open("n", O_RDONLY));
	M(get("m", 0, &d));
	show(open_by_handle_at(other, &d.h, O_RDONLY));
	M(mount(NULL, "n", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	show(open_by_handle_at(other, &f.h, O_RDWR));
	close(other);
	M(umount("n"));
	M(rmdir("n"));
}

static void permission(int at)
{
	handle f;
	M(get("m/two", 0, &f));
	M(chmod("m/two", 0600));
	CHILD("another user", {
		M(setresuid(1234, 1234, 1234));
		T(open_by_handle_at(at, &f.h, O_RDONLY));
		T(get("m/two", 0, &f));
	});
	CHILD("DAC_READ_SEARCH only", {
		struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
		struct __user_cap_data_struct data[2] = { { 1 << CAP_DAC_READ_SEARCH, 1 << CAP_DAC_READ_SEARCH, 0 } };
		M(chown("m/two", 77, 77));
		M(syscall(SYS_capset, &head, data));
		show(open_by_handle_at(at, &f.h, O_RDONLY));
		show(open_by_handle_at(at, &f.h, O_RDWR));
	});
	CHILD("in another user namespace", {
		M(unshare(CLONE_NEWUSER));
		T(open_by_handle_at(at, &f.h, O_RDONLY));
	});
}

static void quotas(void)
{
	struct dqblk quota;
	int fd = M(open("m", O_RDONLY)), proc = M(open("/proc", O_PATH));
	T(syscall(SYS_quotactl, QCMD(Q_SYNC, USRQUOTA), NULL, 0, NULL));
	T(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), NULL, 0, &quota));
	T(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, 3), NULL, 0, &quota));
	T(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "/dev/null", 0, &quota));
	T(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "m/none", 0, &quota));
	T(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "m", 0, &quota));
	M(mknod("b", S_IFBLK | 0600, 0x7fff));
	T(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "b", 0, &quota));
	T(syscall(SYS_quotactl_fd, fd, QCMD(Q_GETQUOTA, USRQUOTA), 0, &quota));
	T(syscall(SYS_quotactl_fd, fd, QCMD(Q_QUOTAON, USRQUOTA), 0, "m/quota"));
	T(syscall(SYS_quotactl_fd, fd, QCMD(0x77, USRQUOTA), 0, &quota));
	T(syscall(SYS_quotactl_fd, fd, QCMD(Q_GETQUOTA, 7), 0, &quota));
	T(syscall(SYS_quotactl_fd, proc, QCMD(Q_GETQUOTA, USRQUOTA), 0, &quota));
	T(syscall(SYS_quotactl_fd, 99, QCMD(Q_GETQUOTA, USRQUOTA), 0, &quota));
	M(mount("m", "m", NULL, MS_BIND, NULL));
	M(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	close(fd);
	fd = M(open("m", O_RDONLY));
	T(syscall(SYS_quotactl_fd, fd, QCMD(Q_SETQUOTA, USRQUOTA), 0, &quota));
	T(syscall(SYS_quotactl_fd, fd, QCMD(Q_GETQUOTA, USRQUOTA), 0, &quota));
}

int main(void)
{
	M(unshare(CLONE_NEWNS));
	M(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	mkdir("t", 0755);
	M(mount("t", "t", "tmpfs", 0, ""));
	M(chdir("t"));
	M(mkdir("m", 0755));
	M(getcwd(here, sizeof here) ? 0 : -1);
	M(mount("m", "m", "tmpfs", 0, ""));
	M(mkdir("m/d", 0755));
	put_file("m/f", "text", 0644);
	M(symlink("f", "m/l"));
	M(link("m/f", "m/hard"));
	sizes();
	M(unlink("m/hard"));
	int at = M(open("m", O_RDONLY));
	M(chdir("m"));
	M(chdir(".."));
	opening(at);
	lifetime(at);
	permission(at);
	quotas();
	return 0;
}
