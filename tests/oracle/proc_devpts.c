/* oracle: root
 * Instances of proc and devpts, cgroup2 and mqueue: their options, what they hide and from whom, and whose terminals are whose. */
#include "oracle.h"
#include <dirent.h>
#include <grp.h>
#include <sys/mount.h>
#include <sys/statfs.h>

static char dir[512];

static void options(void)
{
	char line[1024];
	FILE *f = fopen("/proc/self/mountinfo", "r");
	while (fgets(line, sizeof line, f)) {
		char where[256];
		if (sscanf(line, "%*d %*d %*s %*s %255s", where) == 1 && strcmp(where, dir) == 0)
			printf("mountinfo:%s", strstr(line, " - "));
	}
	fclose(f);
	struct statfs s;
	M(statfs(dir, &s));
	printf("type %lx, names %ld\n", (long)s.f_type, (long)s.f_namelen);
}

static void try_options(const char *type, const char *o)
{
	printf("-t %s -o %s\n", type, o ? o : "");
	if (T(mount(type, dir, type, 0, o)) == 0) {
		options();
		M(umount(dir));
	}
}

static int lists(const char *name)
{
	int found = 0;
	DIR *d = opendir(dir);
	for (struct dirent *e; (e = readdir(d));)
		found |= strcmp(e->d_name, name) == 0;
	closedir(d);
	return found;
}

static void look(const char *what, pid_t other)
{
	char path[600], number[16];
	struct stat st;
	printf("%s\n", what);
	snprintf(number, sizeof number, "%d", other);
	printf("listed: %d\n", lists(number));
	snprintf(path, sizeof path, "%s/%d", dir, other);
	printf("stat: %s\n", stat(path, &st) ? name_of(errno) : "ok");
	snprintf(path, sizeof path, "%s/%d/stat", dir, other);
	printf("stat of a file: %s\n", stat(path, &st) ? name_of(errno) : "ok");
	int fd = open(path, O_RDONLY);
	printf("open of a file: %s\n", fd < 0 ? name_of(errno) : "ok");
	close(fd);
	snprintf(number, sizeof number, "%d", getpid());
	printf("itself listed: %d\n", lists(number));
}

static void terminals(void)
{
	char path[600];
	struct stat st;
	M(mount("d", dir, "devpts", 0, "ptmxmode=666,mode=640,gid=7,max=1"));
	snprintf(path, sizeof path, "%s/ptmx", dir);
	M(stat(path, &st));
	printf("ptmx: %o %d:%d, device %x\n", st.st_mode, st.st_uid, st.st_gid, (int)st.st_rdev);
	int master = M(open(path, O_RDWR | O_NOCTTY));
	T(open(path, O_RDWR | O_NOCTTY));
	unsigned number;
	int zero = 0;
	M(ioctl(master, TIOCGPTN, &number));
	M(ioctl(master, TIOCSPTLCK, &zero));
	snprintf(path, sizeof path, "%s/%u", dir, number);
	M(stat(path, &st));
	printf("terminal: %o %d:%d\n", st.st_mode, st.st_uid, st.st_gid);
	int slave = M(open(path, O_RDWR | O_NOCTTY));
	char name[600] = "";
	printf("ttyname: %d\n", ttyname_r(slave, name, sizeof name));
	printf("is its path: %d\n", strcmp(name, path) == 0);
	M(write(slave, "hi", 2));
	printf("read: %ld\n", (long)read(master, name, sizeof name));
	T(chown(path, 3, 4));
	T(chmod(path, 0600));
	M(fstat(slave, &st));
	printf("terminal: %o %d:%d\n", st.st_mode, st.st_uid, st.st_gid);
	close(master);
	T(access(path, F_OK));
	close(slave);
	T(umount(dir));
}

/* Of the directory and of ptmx, as container managers give them to the root of a user namespace. */
static void owners(void)
{
	char path[600];
	struct stat st;
	M(mount("p", dir, "devpts", 0, "newinstance,ptmxmode=0666"));
	snprintf(path, sizeof path, "%s/ptmx", dir);
	const char *at[] = { dir, path };
	for (int i = 0; i < 2; i++) {
		T(chown(at[i], 7, 8));
		T(chmod(at[i], 0711));
		M(stat(at[i], &st));
		printf("%d: %o %u:%u\n", i, st.st_mode, st.st_uid, st.st_gid);
	}
	T(mount(NULL, dir, NULL, MS_REMOUNT, "ptmxmode=0600"));
	M(stat(path, &st));
	printf("%o %u:%u\n", st.st_mode, st.st_uid, st.st_gid);
	M(umount(dir));
}

int main(void)
{
	M(unshare(CLONE_NEWNS));
	M(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	M(mkdir("m", 0755));
	M(chmod(".", 0755));
	M(mount("none", "m", "tmpfs", 0, "mode=755"));
	M(mkdir("m/m", 0755));
	getcwd(dir, sizeof dir - 8);
	strcat(dir, "/m/m");
	static const char *const proc[] = {
		"hidepid=0", "hidepid=1", "hidepid=2", "hidepid=3", "hidepid=4", "hidepid=off", "hidepid=noaccess", "hidepid=invisible",
		"hidepid=ptraceable", "hidepid=x", "hidepid", "gid=5", "gid=x", "subset=pid", "subset=foo", "subset=pid,hidepid=2,gid=7", "foo",
		"foo=1", "ro",
	};
	for (size_t i = 0; i < sizeof proc / sizeof *proc; i++)
		try_options("proc", proc[i]);
	static const char *const pts[] = {
		NULL, "newinstance", "ptmxmode=0666", "mode=600", "mode=x", "mode=77777", "gid=5", "uid=3", "uid=x", "max=4", "max=-1",
		"max=1048576", "max=1048577", "newinstance,ptmxmode=0666,mode=0620,gid=5", "foo",
	};
	for (size_t i = 0; i < sizeof pts / sizeof *pts; i++)
		try_options("devpts", pts[i]);
	try_options("mqueue", NULL);
	try_options("mqueue", "foo");

	M(chdir("m"));
	pid_t parent = getpid();
	static const char *const hide[] = { "hidepid=0", "hidepid=1", "hidepid=2", "hidepid=4", "hidepid=2,gid=42", "hidepid=4,gid=42" };
	for (size_t i = 0; i < sizeof hide / sizeof *hide; i++) {
		M(mount("p", dir, "proc", 0, hide[i]));
		/* The user first: names that root has looked up stay known to Linux. */
		CHILD(hide[i], {
			gid_t group = 42;
			M(setgroups(1, &group));
			M(setresgid(1000, 1000, 1000));
			M(setresuid(1000, 1000, 1000));
			look("as a user", parent);
		});
		look("as root", parent);
		M(umount(dir));
	}
	M(mount("p", dir, "proc", 0, "subset=pid"));
	printf("%d %d %d %d\n", lists("self"), lists("thread-self"), lists("meminfo"), lists("sys"));
	char path[600];
	snprintf(path, sizeof path, "%s/meminfo", dir);
	T(open(path, O_RDONLY) < 0 && errno == ENOENT);
	T(mount(NULL, dir, NULL, MS_REMOUNT, "hidepid=2"));
	options();
	M(umount(dir));
	/* An instance shows the pid namespace it was mounted in. */
	M(unshare(CLONE_NEWPID));
	CHILD("in a new pid namespace", {
		M(mount("p", dir, "proc", 0, NULL));
		char text[16] = "";
		snprintf(path, sizeof path, "%s/self", dir);
		T(readlink(path, text, sizeof text));
		printf("%s\n", text);
		pid_t other = fork();
		if (other == 0) {
			pause();
			_exit(0);
		}
		printf("child is %d, listed: %d %d %d\n", other, lists("1"), lists("2"), lists("3"));
		kill(other, SIGKILL);
		waitpid(other, NULL, 0);
		printf("afterwards: %d\n", lists("2"));
		M(umount(dir));
	});
	terminals();
	owners();
	return 0;
}
