/* oracle: user root
 * uid_map, gid_map and setgroups (user_namespaces(7)): who may write what, and what the ids look like after it. Levels of nesting. */
#include "oracle.h"
#include <grp.h>
#include <sys/prctl.h>

static int go[2], done[2];

/* A child in a new user namespace that does nothing until it is told to end. */
static pid_t in_new_ns(void)
{
	M(pipe(go));
	M(pipe(done));
	pid_t p = fork();
	if (p == 0) {
		char c;
		if (unshare(CLONE_NEWUSER)) _exit(1);
		if (write(done[1], "x", 1) != 1 || read(go[0], &c, 1) != 1) _exit(2);
		_exit(0);
	}
	char c;
	if (read(done[0], &c, 1) != 1) exit(98);
	return p;
}

static void end(pid_t p)
{
	if (write(go[1], "x", 1) != 1) exit(97);
	waitpid(p, NULL, 0);
	for (int i = 0; i < 2; i++) {
		close(go[i]);
		close(done[i]);
	}
}

/* `me` in a text stands for the own id. */
static const char *filled(const char *text, unsigned id)
{
	static char b[8192];
	char *o = b;
	for (const char *t = text; *t; t++) {
		if (t[0] == 'm' && t[1] == 'e') {
			o += sprintf(o, "%u", id);
			t++;
		} else
			*o++ = *t;
	}
	*o = 0;
	return b;
}

static int put(pid_t p, const char *file, const char *text, size_t len)
{
	char name[64];
	snprintf(name, sizeof name, "/proc/%d/%s", p, file);
	int fd = open(name, O_WRONLY);
	if (fd < 0) return -1;
	int r = write(fd, text, len), e = errno;
	close(fd);
	errno = e;
	return r;
}

static void escaped(const char *text)
{
	int n = 0;
	for (; *text && n < 60; text++, n++)
		if (*text == '\n') printf("\\n");
		else if (*text == '\t') printf("\\t");
		else putchar(*text);
	if (*text) printf("...");
}

static int try(pid_t p, const char *file, const char *text)
{
	unsigned id = strcmp(file, "gid_map") ? geteuid() : getegid();
	const char *t = filled(text, id);
	int r = put(p, file, t, strlen(t));
	printf("  %s \"", file);
	escaped(text);
	printf("\": %s\n", r < 0 ? name_of(errno) : (size_t)r == strlen(t) ? "all" : "part");
	return r;
}

/* Without numbers that differ between the worlds. */
static void show_map(pid_t p, const char *file)
{
	char name[64], line[128];
	snprintf(name, sizeof name, "/proc/%d/%s", p, file);
	FILE *f = fopen(name, "r");
	if (!f) {
		printf("  %s: %s\n", file, name_of(errno));
		return;
	}
	int n = 0;
	while (fgets(line, sizeof line, f)) {
		if (++n > 5) continue;
		unsigned a, b, c;
		int width = strlen(line);
		if (sscanf(line, "%u %u %u", &a, &b, &c) != 3) {
			printf("  %s holds %s", file, line);
			continue;
		}
		unsigned id = strcmp(file, "gid_map") ? geteuid() : getegid();
		printf("  %s: %u ", file, a);
		if (b == id && id) printf("me");
		else printf("%u", b);
		printf(" %u, %d characters\n", c, width);
	}
	if (n > 5) printf("  and %d more\n", n - 5);
	fclose(f);
}

static void one(const char *file, const char *text)
{
	pid_t p = in_new_ns();
	try(p, file, text);
	show_map(p, file);
	end(p);
}

static void texts(void)
{
	static char many[16384];
	printf("uid_map from the parent:\n");
	const char *const all[] = {
		"0 me 1", "0 me 1\n", "0 me 1\n\n", "\n0 me 1", " 0  me\t1 \n", "0 me", "0", "", "\n", "x", "0 me x", "0 me 0", "0 me 1 2",
		"0 me 1x", "-1 me 1", "4294967295 me 1", "4294967294 me 1", "4294967295 me 2", "0 4294967295 1", "0 4294967294 1", "0 4294967290 10",
		"0 me 4294967295", "0 me 4294967296", "1000 me 1", "0x10 me 1", "010 me 1", "0 me 1\n0 5000 1\n", "0 me 1\n1 me 1\n",
		"0 me 1\n1 5000 1\n", "0 1000000 10\n5 2000000 10\n", "0 1000000 10\n20 1000005 10\n", "0 1000000 10\n10 2000000 10\n",
		"10 me 1\n0 5 1\n", "0 0 4294967295", "0 1 2", "0 me 2",
	};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) one("uid_map", all[i]);
	printf("many lines:\n");
	for (int n = 339; n <= 341; n++) {
		char *o = many;
		for (int i = 0; i < n; i++) o += sprintf(o, "%d %d 1\n", i, 100 + i);
		printf(" %d lines, %s a page\n", n, o - many < 4096 ? "less than" : "more than");
		one("uid_map", many);
	}
	memset(many, ' ', 4096);
	memcpy(many, "0 5 1", 5);
	many[4096] = 0;
	one("uid_map", many);
	many[4095] = 0;
	one("uid_map", many);
}

static void groups(void)
{
	printf("gid_map and setgroups:\n");
	const char *const denials[] = { "deny", "deny\n", "deny ", "allow", "allow\n", "den", "denyx", "", "deny\nx", "Deny", "allow deny" };
	for (size_t i = 0; i < sizeof denials / sizeof *denials; i++) {
		pid_t p = in_new_ns();
		try(p, "setgroups", denials[i]);
		show_map(p, "setgroups");
		end(p);
	}
	one("gid_map", "0 me 1");
	pid_t p = in_new_ns();
	try(p, "setgroups", "deny");
	try(p, "setgroups", "allow");
	try(p, "setgroups", "deny");
	try(p, "gid_map", "0 me 1");
	try(p, "gid_map", "0 me 1");
	try(p, "uid_map", "0 me 1");
	try(p, "uid_map", "0 me 1");
	try(p, "setgroups", "deny");
	try(p, "setgroups", "allow");
	show_map(p, "gid_map");
	end(p);
	p = in_new_ns();
	try(p, "gid_map", "0 me 1\n1 5 1\n");
	try(p, "setgroups", "deny");
	show_map(p, "setgroups");
	end(p);
}

static void ids(const char *what)
{
	uid_t r, e, s;
	gid_t gr, ge, gs;
	gid_t list[64];
	getresuid(&r, &e, &s);
	getresgid(&gr, &ge, &gs);
	int n = getgroups(64, list);
	printf("  %s: uid %d %d %d gid %d %d %d", what, r, e, s, gr, ge, gs);
	for (int i = 0; i < n; i++)
		if (list[i] != 65534) printf(" in group %d", list[i]);
	printf("\n");
}

/* What the first process in a namespace may do before and after it has maps. */
static void from_inside(void)
{
	printf("from inside:\n");
	uid_t u = geteuid();
	gid_t g = getegid();
	char text[64];
	put_file("mine", "x", 0600);
	CHILD("inside", {
		M(unshare(CLONE_NEWUSER));
		ids("unmapped");
		struct stat st;
		stat("mine", &st);
		printf("  mine belongs to %d:%d\n", st.st_uid, st.st_gid);
		stat("/", &st);
		printf("  / belongs to %d:%d\n", st.st_uid, st.st_gid);
		T(setuid(0));
		T(setgid(0));
		T(setresuid(65534, -1, -1));
		T(setresuid(-1, -1, -1));
		T(setgroups(0, NULL));
		T(chown("mine", 0, 0));
		T(chown("mine", -1, -1));
		T(syscall(SYS_setfsuid, 0));
		OK(open("/proc/self/uid_map", O_WRONLY));
		snprintf(text, sizeof text, "0 %u 1", u);
		T(put(getpid(), "uid_map", text, strlen(text)) > 0);
		snprintf(text, sizeof text, "0 %u 1", g);
		T(put(getpid(), "gid_map", text, strlen(text)) > 0);
		T(put(getpid(), "setgroups", "deny", 4));
		T(put(getpid(), "gid_map", text, strlen(text)) > 0);
		ids("mapped");
		stat("mine", &st);
		printf("  mine belongs to %d:%d\n", st.st_uid, st.st_gid);
		T(setgroups(0, NULL));
		T(setuid(0));
		T(setuid(1));
		T(setresgid(0, 0, 0));
		T(setresgid(-1, 5, -1));
		T(chown("mine", 0, 0));
		T(chown("mine", 1, -1));
		T(chown("mine", -1, 1));
		T(chown("mine", 0, -1));
		T(chown("/", 0, 0));
		T(setpriority(PRIO_USER, 5, 1));
		T(getpriority(PRIO_USER, 5));
		T(access("/root/x", F_OK) == -1 && errno != ENOENT ? 1 : 0);
		show_map(getpid(), "uid_map");
	});
	/* A level further, unmapped there. */
	CHILD("two levels", {
		M(unshare(CLONE_NEWUSER));
		snprintf(text, sizeof text, "7 %u 1", u);
		T(put(getpid(), "uid_map", text, strlen(text)) > 0);
		ids("first level");
		CHILD("without a group no further", T(unshare(CLONE_NEWUSER)));
		snprintf(text, sizeof text, "8 %u 1", g);
		T(put(getpid(), "setgroups", "deny", 4));
		T(put(getpid(), "gid_map", text, strlen(text)) > 0);
		M(unshare(CLONE_NEWUSER));
		show_map(getpid(), "setgroups");
		T(put(getpid(), "setgroups", "allow", 5));
		T(put(getpid(), "uid_map", "0 0 1", 5));
		T(put(getpid(), "uid_map", "3 7 1", 5));
		T(put(getpid(), "gid_map", "3 8 1", 5));
		ids("second level");
		printf("  user 3 of the inner is user 7 outside of it\n");
		show_map(getpid(), "uid_map");
		T(unshare(CLONE_NEWUSER));
		ids("third, unmapped");
	});
}

static void nesting(void)
{
	printf("nesting:\n");
	CHILD("levels", {
		char text[64];
		int n = 0;
		unsigned u = geteuid();
		unsigned g = getegid();
		for (; n < 40; n++) {
			if (unshare(CLONE_NEWUSER)) {
				printf("  after %d: %s\n", n, name_of(errno));
				break;
			}
			snprintf(text, sizeof text, "0 %u 1", u);
			if (put(getpid(), "setgroups", "deny", 4) < 0 || put(getpid(), "uid_map", text, strlen(text)) < 0) {
				printf("  map of %d: %s\n", n, name_of(errno));
				break;
			}
			snprintf(text, sizeof text, "0 %u 1", g);
			if (put(getpid(), "gid_map", text, strlen(text)) < 0) {
				printf("  gid_map of %d: %s\n", n, name_of(errno));
				break;
			}
			u = g = 0;
		}
		pid_t p = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
		if (!p) _exit(0);
		printf("  clone there: %s\n", p > 0 ? "ok" : name_of(errno));
	});
	CHILD("chrooted", {
		if (geteuid() == 0) {
			M(mkdir("root", 0755));
			M(chroot("root"));
		}
		OK(unshare(CLONE_NEWUSER));
	});
}

int main(void)
{
	/* Groups besides the own one differ from system to system. */
	if (geteuid() == 0) M(setgroups(0, NULL));
	texts();
	groups();
	from_inside();
	nesting();
	return 0;
}
