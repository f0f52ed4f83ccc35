/* oracle: root
 *
 * Random sequences of what processes do to each other: fork with flags, exit, unshare, setns, wait, kill, groups, sub-reapers.
 * How it is called: random.h; tests/nightly/tasks.py runs others than the fixed set.
 *
 * The world is a new pid namespace, in which numbers are the same in each run. Its init carries out a script: it tells one process
 * ("actor") after the other what to do, and then asks all of them what they see of themselves and looks at each in /proc.
 * Shown are results and errnos, all numbers of a process at each level, parents, groups, sessions, states, and which links in
 * /proc/PID/ns name one namespace.
 */
#include "oracle.h"
#include "random.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#define ACTORS 12
#define FIRST_ACTORS 3
/* The index of the world's init, which acts as well. */
#define INIT ACTORS
#define OPS 30
#define LEVELS 12
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

/* Generation */

static const struct flag {
	const char *name;
	unsigned long bit;
} flag_table[] = { { "uts", CLONE_NEWUTS },	  { "ipc", CLONE_NEWIPC },   { "pid", CLONE_NEWPID }, { "user", CLONE_NEWUSER },
		   { "mnt", CLONE_NEWNS },	  { "cgroup", CLONE_NEWCGROUP }, { "fs", CLONE_FS },	  { "parent", CLONE_PARENT },
		   { "sysvsem", CLONE_SYSVSEM }, { "time", CLONE_NEWTIME },	  { "thread", CLONE_THREAD }, { "net", CLONE_NEWNET } };
#define NFLAGS (sizeof flag_table / sizeof *flag_table)
static const char *const links[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts" };
#define NLINKS (sizeof links / sizeof *links)
static const char *const signals[] = { "USR1", "USR1", "TERM", "KILL", "STOP", "CONT", "TSTP", "CHLD", "0" };

/* Up to three flags out of the first `kinds`, pid namespaces more often than others, network namespaces seldom. */
static char *some_flags(char *s, unsigned kinds, unsigned none)
{
	unsigned n = below(3) >= none ? 1 + below(3) : 0;
	if (!n)
		return s + sprintf(s, "-");
	for (unsigned i = 0; i < n; i++) {
		const char *name = !below(4) ? "pid" : !below(60) ? "net" : flag_table[below(kinds)].name;
		s += sprintf(s, "%s%s", i ? "," : "", name);
	}
	return s;
}

/* A number of a process, or what stands for one. */
static int number(void)
{
	unsigned r = below(20);
	return r < 15 ? (int)below(11) : r < 17 ? -(int)below(8) : r < 19 ? -1 : 0;
}

static void generate(uint64_t seed, char *script)
{
	seed_generator(seed);
	unsigned n = 8 + below(OPS - 8), made = FIRST_ACTORS;
	char *s = script;
	*s = 0;
	for (unsigned i = 0; i < n; i++) {
		/* The youngest more often: they are the ones in namespaces. */
		unsigned who = below(3) ? below(made) : made - 1, r = below(100);
		char *line = s;
		s += sprintf(s, "%u ", who);
		if (r < 22 && made < ACTORS) {
			s += sprintf(s, "fork ");
			s = some_flags(s, 9, 1);
			s += sprintf(s, " %s\n", below(5) ? "CHLD" : below(2) ? "0" : "USR1");
			made++;
		} else if (r < 26)
			s += sprintf(s, "exit %u\n", below(4));
		else if (r < 28)
			s += sprintf(s, "thread\n");
		else if (r < 29)
			s += sprintf(s, "leave\n");
		else if (r < 40) {
			s += sprintf(s, "unshare ");
			s = some_flags(s, 11, 0);
			s += sprintf(s, "\n");
		} else if (r < 43)
			s += sprintf(s, "map\n");
		else if (r < 49)
			s += sprintf(s, "keep %u %s\n", below(made), links[below(NLINKS)]);
		else if (r < 55)
			s += sprintf(s, "enter %s\n", below(4) ? "-" : flag_table[below(6)].name);
		else if (r < 58) {
			s += sprintf(s, "entertask %d ", (int)below(8));
			s = some_flags(s, 6, 0);
			s += sprintf(s, "\n");
		} else if (r < 68)
			s += sprintf(s, "wait %d %s%s%s\n", below(2) ? -1 : number(), below(3) ? "-" : "untraced,",
				     below(3) ? "" : "all,", below(4) ? "" : below(2) ? "clone" : "continued");
		else if (r < 73)
			s += sprintf(s, "waitid %s %d %s%s\n", below(2) ? "all" : below(2) ? "pid" : "pgid", (int)below(8),
				     below(3) ? "exited," : "stopped,", below(2) ? "-" : "nowait");
		else if (r < 85)
			s += sprintf(s, "kill %d %s\n", number(), signals[below(9)]);
		else if (r < 87)
			s += sprintf(s, "pidsignal %d %s\n", (int)below(8), signals[below(9)]);
		else if (r < 90)
			s += sprintf(s, "setpgid %d %d\n", (int)below(6), (int)below(6));
		else if (r < 92)
			s += sprintf(s, "setsid\n");
		else if (r < 95)
			s += sprintf(s, "children %s\n", below(3) ? below(2) ? "ignored" : "nocldwait" : "default");
		else if (r < 97)
			s += sprintf(s, "subreaper %u\n", below(2));
		else if (r < 98)
			s += sprintf(s, "become %u\n", 1000 + below(2));
		else
			/* Init takes what is left to it. */
			s = line + sprintf(line, "%d wait -1 all,\n", INIT);
	}
}

/* An actor */

/* What an actor answers. */
struct reply {
	char kind; /* 'r': result of an operation, 's': what it sees of itself, 'l': that it lives */
	int error;
	char text[120];
};

static int control = -1; /* the actor's end */
static int slot = -1; /* the namespace it has kept */
static volatile sig_atomic_t got_usr1, got_chld;

static void on_signal(int s)
{
	if (s == SIGUSR1)
		got_usr1 = 1;
	else
		got_chld = 1;
}

static unsigned long parse_flags(const char *text)
{
	unsigned long all = 0;
	for (unsigned i = 0; i < NFLAGS; i++) {
		size_t n = strlen(flag_table[i].name);
		for (const char *at = text; (at = strstr(at, flag_table[i].name)); at += n)
			if ((at == text || at[-1] == ',') && (!at[n] || at[n] == ','))
				all |= flag_table[i].bit;
	}
	return all;
}

static int parse_signal(const char *text)
{
	const char *const names[] = { "USR1", "TERM", "KILL", "STOP", "CONT", "TSTP", "CHLD" };
	const int numbers[] = { SIGUSR1, SIGTERM, SIGKILL, SIGSTOP, SIGCONT, SIGTSTP, SIGCHLD };
	for (unsigned i = 0; i < 7; i++)
		if (!strcmp(text, names[i]))
			return numbers[i];
	return 0;
}

static int error_of(long r)
{
	return r < 0 ? errno : 0;
}

static int parked(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return 0;
}

static int start_thread(void)
{
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	sigset_t all, old;
	sigfillset(&all);
	/* Signals are for the thread that answers. */
	sigprocmask(SIG_SETMASK, &all, &old);
	int r = error_of(clone(parked, stack + 65536, flags, NULL));
	sigprocmask(SIG_SETMASK, &old, NULL);
	return r;
}

static int write_file(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	int r = error_of(write(fd, text, strlen(text)));
	close(fd);
	return r;
}

static void children_are(const char *how)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	if (!strcmp(how, "ignored"))
		sa.sa_handler = SIG_IGN;
	if (!strcmp(how, "nocldwait"))
		sa.sa_flags |= SA_NOCLDWAIT;
	sigaction(SIGCHLD, &sa, NULL);
}

static void act(void);

/* Carries out one operation; `given` is the control socket of a process to be made. */
static int perform(const char *line, int given, char *text)
{
	char op[16] = "", a[64] = "", b[64] = "", c[64] = "";
	sscanf(line, "%15s %63s %63s %63s", op, a, b, c);
	if (!strcmp(op, "fork")) {
		long r = syscall(SYS_clone, parse_flags(a) | parse_signal(b), NULL, NULL, NULL, 0L);
		if (!r) {
			close(control);
			control = given;
			got_usr1 = got_chld = 0;
			children_are("default");
			act();
		}
		if (r > 0)
			sprintf(text, "%ld", r);
		return error_of(r);
	}
	if (!strcmp(op, "exit"))
		_exit(atoi(a));
	if (!strcmp(op, "leave"))
		syscall(SYS_exit, 0);
	if (!strcmp(op, "thread"))
		return start_thread();
	if (!strcmp(op, "unshare"))
		return error_of(unshare(parse_flags(a)));
	if (!strcmp(op, "map")) {
		int r = write_file("/proc/self/setgroups", "deny"), u = write_file("/proc/self/uid_map", "0 0 1");
		int g = write_file("/proc/self/gid_map", "0 0 1");
		sprintf(text, "%s %s", name_of(u), name_of(g));
		return r;
	}
	if (!strcmp(op, "keep")) {
		char name[160];
		snprintf(name, sizeof name, "/proc/%s/ns/%s", a, b);
		int fd = open(name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return errno;
		if (slot >= 0)
			close(slot);
		slot = fd;
		return 0;
	}
	if (!strcmp(op, "enter"))
		return error_of(setns(slot, parse_flags(a)));
	if (!strcmp(op, "entertask")) {
		int fd = syscall(SYS_pidfd_open, atoi(a), 0);
		if (fd < 0) {
			sprintf(text, "no pidfd");
			return errno;
		}
		int r = error_of(setns(fd, parse_flags(b)));
		close(fd);
		return r;
	}
	if (!strcmp(op, "wait")) {
		int st = 0, options = WNOHANG;
		options |= strstr(b, "untraced") ? WUNTRACED : 0;
		options |= strstr(b, "continued") ? WCONTINUED : 0;
		options |= strstr(b, "all") ? __WALL : 0;
		options |= strstr(b, "clone") ? __WCLONE : 0;
		int r = wait4(atoi(a), &st, options, NULL);
		if (r > 0)
			sprintf(text, "%d %s", r, status_text(st));
		return error_of(r);
	}
	if (!strcmp(op, "waitid")) {
		siginfo_t si = { 0 };
		idtype_t type = !strcmp(a, "all") ? P_ALL : !strcmp(a, "pid") ? P_PID : P_PGID;
		int options = WNOHANG | (strstr(c, "exited") ? WEXITED : WSTOPPED | WCONTINUED) | (strstr(c, "nowait") ? WNOWAIT : 0);
		int r = waitid(type, atoi(b), &si, options);
		if (!r && si.si_pid)
			sprintf(text, "%d uid %d code %d status %d signal %d", si.si_pid, si.si_uid, si.si_code, si.si_status, si.si_signo);
		return error_of(r);
	}
	if (!strcmp(op, "kill")) {
		int r = error_of(kill(atoi(a), parse_signal(b)));
		/* Another thread may be the first to take what stops all. */
		if (!r && (parse_signal(b) == SIGSTOP || parse_signal(b) == SIGTSTP))
			msleep(5);
		return r;
	}
	if (!strcmp(op, "pidsignal")) {
		int fd = syscall(SYS_pidfd_open, atoi(a), 0);
		if (fd < 0) {
			sprintf(text, "no pidfd");
			return errno;
		}
		int r = error_of(syscall(SYS_pidfd_send_signal, fd, parse_signal(b), NULL, 0));
		close(fd);
		return r;
	}
	if (!strcmp(op, "setpgid"))
		return error_of(setpgid(atoi(a), atoi(b)));
	if (!strcmp(op, "setsid"))
		return error_of(setsid());
	if (!strcmp(op, "children")) {
		children_are(a);
		return 0;
	}
	if (!strcmp(op, "subreaper"))
		return error_of(prctl(PR_SET_CHILD_SUBREAPER, atoi(a)));
	if (!strcmp(op, "become")) {
		uid_t u = atoi(a);
		int g = error_of(setresgid(u, u, u));
		sprintf(text, "%s", name_of(g));
		return error_of(setresuid(u, u, u));
	}
	printf("what is %s?\n", op);
	_exit(2);
}

static void see(char *text)
{
	sprintf(text, "pid %d tid %ld ppid %d pgrp %d sid %d uid %d%s%s", getpid(), syscall(SYS_gettid), getppid(), getpgrp(),
		getsid(0), getuid(), got_usr1 ? " USR1" : "", got_chld ? " CHLD" : "");
	got_usr1 = got_chld = 0;
}

static void act(void)
{
	char line[256];
	/* Whoever sends it a signal does so after this. */
	if (send(control, &(struct reply){ 's' }, sizeof(struct reply), MSG_NOSIGNAL) < 0)
		_exit(3);
	for (;;) {
		char room[CMSG_SPACE(sizeof(int))];
		struct iovec iov = { line, sizeof line - 1 };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
		ssize_t n = recvmsg(control, &m, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(0);
		line[n] = 0;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		int given = -1;
		if (c)
			memcpy(&given, CMSG_DATA(c), sizeof given);
		struct reply r = { 0 };
		if (!strcmp(line, "live")) {
			r.kind = 'l';
		} else if (!strcmp(line, "see")) {
			r.kind = 's';
			see(r.text);
		} else {
			r.kind = 'r';
			r.error = perform(line, given, r.text);
		}
		if (given >= 0)
			close(given);
		if (send(control, &r, sizeof r, MSG_NOSIGNAL) < 0)
			_exit(3);
	}
}

/* The world's init */

static struct actor {
	int end; /* of its control socket; -1 when it is over */
	int pid; /* in the world */
	int owed; /* stopped in the middle of an operation or of seeing */
	ino_t levels[LEVELS]; /* its pid namespaces, the innermost first */
	int init; /* of its pid namespace */
} actors[ACTORS];
static int made;

static void world_failed(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static int status_field(int pid, const char *field, char *text, size_t size)
{
	static char all[8192];
	char name[64];
	snprintf(name, sizeof name, "/proc/%d/status", pid);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, all, sizeof all - 1);
	close(fd);
	if (n < 0)
		return -1;
	all[n] = 0;
	char *at = strstr(all, field);
	if (!at)
		return -1;
	at += strlen(field);
	at += strspn(at, ":\t ");
	snprintf(text, size, "%.*s", (int)strcspn(at, "\n"), at);
	for (char *t = text; *t; t++)
		if (*t == '\t')
			*t = ' ';
	return 0;
}

/* The state's letter, or 0 when there is no such process. */
static char process_state(int pid)
{
	char text[64];
	return status_field(pid, "\nState", text, sizeof text) ? 0 : *text;
}

static int over(int pid)
{
	char s = process_state(pid);
	return !s || s == 'Z' || s == 'X';
}

/* Of an init that has ended: 0 while others in its namespace live, 1 when nothing is left, 2 when zombies are left that processes
 * outside have to reap. Linux's init is no zombie before they have; ours is at once, so a sequence ends there. */
static int namespace_is_over(struct actor *a)
{
	int zombies = 0;
	for (int i = 0; i < made; i++) {
		struct actor *o = &actors[i];
		int inside = 0;
		char parent[16] = "";
		for (int l = 0; l < LEVELS && o->levels[l]; l++)
			inside |= o->levels[l] == a->levels[0];
		if (o == a || !inside)
			continue;
		status_field(o->pid, "\nPPid", parent, sizeof parent);
		/* Init waits for its own. */
		if (!over(o->pid) || atoi(parent) == a->pid)
			return 0;
		zombies += process_state(o->pid) != 0;
	}
	return zombies ? 2 : 1;
}

static int no_further;

static void ends(struct actor *a)
{
	close(a->end);
	a->end = -1;
	for (int ms = 0; ms < 5000; ms++) {
		int left = a->init ? namespace_is_over(a) : 1;
		if (left == 2)
			no_further = 1;
		if (left == 2 || (left && over(a->pid)))
			return;
		msleep(1);
	}
	out("does not end: %d\n", a->pid);
}

/* What an actor answers next: 1, or 0 when it has ended or is stopped. */
static int answer(struct actor *a, struct reply *r)
{
	struct pollfd p = { a->end, POLLIN, 0 };
	for (int ms = 0; ms < 5000; ms++) {
		if (poll(&p, 1, ms ? 1 : 0) > 0) {
			if (recv(a->end, r, sizeof *r, 0) == sizeof *r)
				return 1;
			ends(a);
			return 0;
		}
		char s = process_state(a->pid);
		if (s == 'T') {
			a->owed = 1;
			return 0;
		}
		if (!s || s == 'Z') {
			ends(a);
			return 0;
		}
	}
	out("no answer from %d\n", a->pid);
	ends(a);
	return 0;
}

static void tell(struct actor *a, const char *line, int given)
{
	char room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { (char *)line, strlen(line) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (given >= 0) {
		m.msg_control = room;
		m.msg_controllen = sizeof room;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof given);
		memcpy(CMSG_DATA(c), &given, sizeof given);
	}
	sendmsg(a->end, &m, MSG_NOSIGNAL);
}

/* The namespaces of a new process are kept open, so that no inode number comes twice. */
static void know(struct actor *a)
{
	char name[64], numbers[128] = "";
	snprintf(name, sizeof name, "/proc/%d/ns/pid", a->pid);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	for (int l = 0; l < LEVELS && fd >= 0; l++) {
		struct stat st;
		fstat(fd, &st);
		a->levels[l] = st.st_ino;
		fd = ioctl(fd, _IO(0xb7, 2) /* NS_GET_PARENT */);
	}
	status_field(a->pid, "\nNSpid", numbers, sizeof numbers);
	char *last = strrchr(numbers, ' ');
	a->init = last && !strcmp(last, " 1");
}

static int newest(void)
{
	DIR *d = opendir("/proc");
	int max = 0;
	for (struct dirent *e; (e = readdir(d));)
		if (atoi(e->d_name) > max)
			max = atoi(e->d_name);
	closedir(d);
	return max;
}

static void result(const char *name, struct reply *r)
{
	out("%s%s%s%s\n", name, name_of(r->error), *r->text ? " " : "", r->text);
	if (!verbose)
		printf(" %d", r->error);
}

static void command(char *line)
{
	struct reply r = { 0 };
	int who = atoi(line);
	char changed[256];
	line = strchr(line, ' ') + 1;
	if (who == INIT) {
		r.error = perform(line, -1, r.text);
		result("", &r);
		return;
	}
	struct actor *a = &actors[who];
	if (who >= made || a->end < 0 || a->owed) {
		out(who < made && a->owed ? "stopped\n" : "over\n");
		return;
	}
	int pair[2] = { -1, -1 }, before = 0;
	if (!strncmp(line, "keep ", 5)) {
		/* Actors are named by their index. */
		int whom = atoi(line + 5);
		sprintf(changed, "keep %d%s", whom < made ? actors[whom].pid : 99999, strchr(line + 5, ' '));
		line = changed;
	}
	if (!strncmp(line, "fork ", 5)) {
		if (made == ACTORS || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			world_failed("fork");
		before = newest();
	}
	tell(a, line, pair[1]);
	if (pair[1] >= 0)
		close(pair[1]);
	if (answer(a, &r))
		result("", &r);
	else
		out(a->end < 0 ? "ended\n" : "stops\n");
	if (pair[0] < 0)
		return;
	/* Whoever was made answers. */
	struct actor *child = &actors[made];
	*child = (struct actor){ .end = pair[0], .pid = newest() };
	if (r.error || child->pid == before) {
		close(pair[0]);
		/* Indices stay those that the script means. */
		*child = (struct actor){ .end = -1 };
	} else if (answer(child, &r))
		know(child);
	made++;
}

static char classes[4096][64];
static int nclasses;

static int class_of(const char *name)
{
	for (int i = 0; i < nclasses; i++)
		if (!strcmp(classes[i], name))
			return i;
	snprintf(classes[nclasses], 64, "%.63s", name);
	return nclasses++;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void look(void)
{
	int all[64], n = 0;
	/* First everybody who is to end does, and then nobody is told of an end any more. */
	for (int i = 0; i < made; i++) {
		struct actor *a = &actors[i];
		struct reply r = { 0 };
		if (a->end < 0)
			continue;
		if (a->owed) {
			if (process_state(a->pid) == 'T' || !(a->owed = 0, answer(a, &r)))
				continue;
			if (r.kind == 'r')
				result("later: ", &r);
		}
		if (r.kind != 'l') {
			tell(a, "live", -1);
			answer(a, &r);
		}
	}
	if (no_further) {
		out("an init whose namespace has zombies of others\n");
		return;
	}
	for (int i = 0; i < made; i++) {
		struct actor *a = &actors[i];
		struct reply r = { 0 };
		if (a->end < 0 || a->owed)
			continue;
		tell(a, "see", -1);
		if (answer(a, &r))
			out(" actor %d: %s\n", i, r.text);
	}
	DIR *d = opendir("/proc");
	for (struct dirent *e; (e = readdir(d)) && n < 64;)
		if (atoi(e->d_name))
			all[n++] = atoi(e->d_name);
	closedir(d);
	qsort(all, n, sizeof *all, by_number);
	nclasses = 0;
	for (int i = 0; i < n; i++) {
		const char *const fields[] = { "PPid", "NSpid", "NSpgid", "NSsid", "Threads" };
		char text[128], name[64], s = process_state(all[i]);
		/* Who waits is asleep, however it does that. */
		out(" %d %c", all[i], s == 'D' || s == 'R' ? 'S' : s ? s : '-');
		for (int f = 0; f < 5; f++) {
			char field[16];
			snprintf(field, sizeof field, "\n%s", fields[f]);
			out(" %s %s", fields[f], status_field(all[i], field, text, sizeof text) ? "-" : text);
		}
		for (unsigned l = 0; l < NLINKS; l++) {
			snprintf(name, sizeof name, "/proc/%d/ns/%s", all[i], links[l]);
			ssize_t len = readlink(name, text, sizeof text - 1);
			if (len < 0) {
				out(" %s", name_of(errno));
				continue;
			}
			text[len] = 0;
			out(" %d", class_of(text));
		}
		out("\n");
	}
}

static void init_of_world(char *script)
{
	/* kill(0) reaches all of a group, outside of the namespace too. */
	setsid();
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("proc", "/proc", "proc", 0, NULL))
		world_failed("mount");
	children_are("default");
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	sigaction(SIGUSR1, &sa, NULL);
	for (made = 0; made < FIRST_ACTORS; made++) {
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
			world_failed("socketpair");
		int pid = fork();
		if (!pid) {
			for (int i = 0; i < made; i++)
				close(actors[i].end);
			close(pair[0]);
			control = pair[1];
			got_usr1 = got_chld = 0;
			act();
		}
		close(pair[1]);
		struct reply r;
		actors[made] = (struct actor){ .end = pair[0], .pid = pid };
		answer(&actors[made], &r);
		know(&actors[made]);
	}
	char *save = NULL;
	for (char *line = strtok_r(script, "\n", &save); line && !no_further; line = strtok_r(NULL, "\n", &save)) {
		if (verbose)
			printf("> %s: ", line);
		command(line);
		look();
	}
	if (!verbose)
		printf(" %016llx\n", (unsigned long long)digest);
	fflush(stdout);
	_exit(0);
}

static void sequence(char *script)
{
	fflush(stdout);
	/* The world's init dies with who waits for it. */
	pid_t child = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | SIGCHLD, NULL, NULL, NULL, 0L);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		init_of_world(script);
	}
	if (child < 0)
		world_failed("clone");
	int status;
	waitpid(child, &status, 0);
	if (status)
		printf(" status %x\n", status);
	alarm(60);
}

int main(int argc, char **argv)
{
	return random_main(argc, argv, 20, 0, generate, sequence);
}
