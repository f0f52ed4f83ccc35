/* oracle: root
 * Transitions of user and group ids and of capabilities from root, and what an exec makes of set-id bits. */
#include "oracle.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

static void show(const char *what)
{
	uid_t r, e, s;
	gid_t gr, ge, gs;
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2] = { { 0 } };
	getresuid(&r, &e, &s);
	getresgid(&gr, &ge, &gs);
	syscall(SYS_capget, &h, d);
	/* CAP_CHOWN (0), CAP_SETUID (7) and CAP_SYS_ADMIN (21) stand for the rest: hosts of tests may lack others. */
	const unsigned bits = 1 | 1 << 7 | 1 << 21;
	printf("%s: uid %d %d %d gid %d %d %d eff %06x perm %06x groups %d\n", what, r, e, s, gr, ge, gs,
	       d[0].effective & bits, d[0].permitted & bits, getgroups(0, NULL));
}

static void *changer(void *arg)
{
	(void)arg;
	T(setuid(1000));
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		show(argv[1]);
		return 0;
	}
	M(chmod(".", 0777));
	T(setgroups(0, NULL));
	show("start");
	CHILD("setuid", { T(setuid(1000)); show("after"); T(setuid(0)); T(seteuid(0)); T(setgid(5)); });
	CHILD("seteuid", { T(seteuid(1000)); show("dropped"); T(seteuid(0)); show("back"); });
	CHILD("setreuid", { T(setreuid(1000, 1001)); show("after"); T(setreuid(1001, 1000)); show("swapped"); T(setuid(0)); });
	CHILD("setresuid", { T(setresuid(1, 2, 0)); show("after"); T(setresuid(-1, 0, -1)); show("regained"); });
	CHILD("setresuid all", { T(setresuid(1, 1, 1)); show("after"); T(setresuid(0, 0, 0)); });
	CHILD("setgid", { T(setgid(50)); show("after"); T(setresgid(1, 2, 3)); show("three"); T(setregid(9, 9)); show("two"); });
	CHILD("setgroups", {
		gid_t g[3] = { 7, 5, 6 };
		gid_t out[3] = { 0 };
		T(setgroups(3, g));
		T(getgroups(3, out));
		printf("groups %d %d %d\n", out[0], out[1], out[2]);
		T(getgroups(2, out));
		T(getgroups(-1, out));
		T(setgroups(70000, g));
		T(initgroups("nobody", 65534));
	});
	CHILD("keepcaps", {
		T(prctl(PR_SET_KEEPCAPS, 1));
		T(setuid(1000));
		show("kept permitted");
		struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
		struct __user_cap_data_struct d[2] = { { 0 } };
		syscall(SYS_capget, &h, d);
		d[0].permitted &= 1 << 7 | 1 << 21;
		d[1].permitted = 0;
		d[0].effective = 1 << 7;
		d[1].effective = 0;
		T(syscall(SYS_capset, &h, d));
		show("raised one");
		T(setuid(5));
		show("setuid by capability");
		d[0].permitted |= 1;
		T(syscall(SYS_capset, &h, d));
		execl("/proc/self/exe", "cred_root", "after exec", NULL);
	});
	CHILD("fsuid", { T(setfsuid(1000)); T(setfsuid(-1)); put_file("fsowned", "", 0600); struct stat st; stat("fsowned", &st); printf("owner %d\n", st.st_uid); });
	CHILD("drop all then exec", {
		T(setresgid(100, 100, 100));
		T(setresuid(1000, 1000, 1000));
		execl("/proc/self/exe", "cred_root", "exec of a user", NULL);
	});
	CHILD("root exec after seteuid", { T(seteuid(1000)); execl("/proc/self/exe", "cred_root", "effective user, saved becomes it", NULL); });
	CHILD("threads change together", {
		pthread_t t;
		pthread_create(&t, NULL, changer, NULL);
		pthread_join(t, NULL);
		show("main too");
	});
	CHILD("raw setuid is per thread", { T(syscall(SYS_setuid, 3)); show("raw"); });
	/* A copy of the program with the bits set. */
	CHILD("copy", execl("/bin/sh", "sh", "-c", "cp /proc/self/exe /dev/null; cp ./cred_root suid && chown 1000:1001 suid && chmod 6755 suid && cp suid plain && chmod 755 ./", NULL));
	struct stat st;
	M(stat("suid", &st));
	printf("suid mode %o owner %d:%d\n", st.st_mode, st.st_uid, st.st_gid);
	CHILD("exec set-id", { T(setresuid(5, 5, 5)); execl("./suid", "suid", "set-id", NULL); });
	CHILD("chown clears", { M(chown("suid", 0, 0)); M(stat("suid", &st)); printf("mode %o\n", st.st_mode); });
	M(chmod("suid", 04755));
	CHILD("set-id root", { T(setgid(6)); T(setresuid(5, 5, 5)); execl("./suid", "suid", "root again", NULL); });
	CHILD("no_new_privs", { T(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); T(setresuid(5, 5, 5)); execl("./suid", "suid", "not root", NULL); });
	CHILD("write clears", {
		int fd = M(open("suid", O_WRONLY | O_APPEND));
		M(setresuid(5, 5, 5));
		T(write(fd, "x", 1));
		M(stat("suid", &st));
		printf("mode %o\n", st.st_mode);
	});
	M(chmod("suid", 06755));
	CHILD("only opening keeps", {
		M(chmod("suid", 06777));
		M(setresuid(5, 5, 5));
		int fd = M(open("suid", O_WRONLY | O_APPEND));
		close(fd);
		M(stat("suid", &st));
		printf("mode %o\n", st.st_mode);
	});
	CHILD("root's writing keeps", {
		int fd = M(open("suid", O_WRONLY | O_APPEND));
		T(write(fd, "x", 1));
		close(fd);
		M(stat("suid", &st));
		printf("mode %o\n", st.st_mode);
	});
	CHILD("closed before anybody looks", {
		M(setresuid(5, 5, 5));
		int fd = M(open("suid", O_WRONLY | O_APPEND));
		T(write(fd, "x", 1));
		close(fd);
		M(stat("suid", &st));
		printf("mode %o\n", st.st_mode);
	});
	CHILD("bits that come after the opening", {
		int fd = M(open("suid", O_WRONLY | O_APPEND));
		M(fchmod(fd, 04777));
		M(setresuid(5, 5, 5));
		M(stat("suid", &st));
		printf("mode %o\n", st.st_mode);
		T(write(fd, "x", 1));
		M(stat("suid", &st));
		printf("mode %o\n", st.st_mode);
	});
	M(chmod("suid", 04777));
	CHILD("truncating", {
		M(setresuid(5, 5, 5));
		M(open("suid", O_WRONLY | O_TRUNC));
		M(stat("suid", &st));
		printf("mode %o\n", st.st_mode);
	});
	CHILD("kill permission", {
		pid_t other = fork();
		if (other == 0) { setresuid(1001, 1001, 1001); for (;;) pause(); }
		msleep(50);
		pid_t k = fork();
		if (k == 0) { M(setresuid(1000, 1000, 1000)); T(kill(other, SIGTERM)); T(kill(other, 0)); _exit(0); }
		reap("killer", k);
		T(kill(other, SIGKILL));
		reap("other", other);
	});
	return 0;
}
