/* oracle: root
 *
 * Random sequences of mount operations by three processes, which share a mount namespace until they unshare it. For every
 * sequence: the result of each operation and a digest of what mountinfo shows of every process after each. How it is called:
 * random.h; tests/nightly/mounts.py runs others than the fixed set.
 *
 * Seeds from 1,000,000 on also make detached trees, which open_tree(2) makes and move_mount(2) attaches; the even ones of these
 * user namespaces, in which mounts are locked, and the odd ones call mount_setattr(2).
 *
 * Mountinfo is compared without what no two systems agree on: numbers of mounts, devices and peer groups. Mounts are shown as a
 * tree, peer groups numbered as they are met.
 */
#include "oracle.h"
#include "mounts.h"
#include "random.h"

#define ACTORS 3
#define OPS 28
/* Seeds from here on have user namespaces and detached trees. */
#define WIDER 1000000
#define TREES 3

static const char *const paths[] = { "/",     "/a",   "/a/x", "/a/y", "/a/x/x", "/b",
				     "/b/x",  "/b/y", "/c",   "/c/x", "/f",     "/a/x/y" };
#define NPATHS (sizeof paths / sizeof *paths)

static pid_t pids[ACTORS];

static const char *path(void)
{
	return paths[below(NPATHS)];
}

static const char *const kinds[] = { "shared", "private", "slave", "unbindable" };
static const char *const flag_sets[] = { "ro", "nosuid", "nodev,noexec", "noatime", "rw" };

static void generate(uint64_t seed, char *script)
{
	seed_generator(seed);
	unsigned n = 6 + below(OPS - 6), tmp = 0;
	char *s = script;
	*s = 0;
	int wider = seed >= WIDER, latest[ACTORS] = { -1, -1, -1 };
	if (below(3))
		s += sprintf(s, "0 make-rshared /\n");
	if (wider)
		n += below(OPS);
	for (unsigned i = 0; i < n; i++) {
		unsigned who = below(ACTORS), r = below(100);
		s += sprintf(s, "%u ", who);
		if (wider && !below(4)) {
			unsigned tree = below(4) && latest[who] >= 0 ? latest[who] : below(TREES);
			r = below(100);
			if (r < 40 || latest[who] < 0) {
				latest[who] = tree;
				s += sprintf(s, "tree%s %s %u\n", below(3) ? "" : "r", path(), tree);
			} else if (r < 75)
				s += sprintf(s, "attach %u %s\n", tree, path());
			else if (r < 85)
				s += sprintf(s, "retype-%s%s %u\n", below(2) ? "r" : "", kinds[below(4)], tree);
			else if (r < 90)
				s += sprintf(s, "close %u\n", tree);
			else if (seed % 2 == 0)
				s += sprintf(s, "unshareuser\n");
			else
				s += sprintf(s, "setattr%s %s %s\n", below(2) ? "r" : "", path(), flag_sets[below(5)]);
			continue;
		}
		if (r < 14)
			s += sprintf(s, "tmpfs %s t%u\n", path(), tmp++);
		else if (r < 28)
			s += sprintf(s, "%s %s %s\n", below(2) ? "bind" : "rbind", path(), path());
		else if (r < 34)
			s += sprintf(s, "move %s %s\n", path(), path());
		else if (r < 58)
			s += sprintf(s, "make-%s%s %s\n", below(2) ? "r" : "", kinds[below(8) < 4 ? 0 : below(4)], path());
		else if (r < 68)
			/* What setns(2) finds where everything is unmounted is the system's own. */
			s += sprintf(s, "umount %s %s\n", wider ? paths[1 + below(NPATHS - 1)] : path(), below(3) ? "-" : below(3) ? "lazy" : "expire");
		else if (r < 77)
			s += sprintf(s, "unshare\n");
		else if (r < 82)
			s += sprintf(s, "setns %u\n", below(ACTORS));
		else if (r < 87)
			s += sprintf(s, "pivot %s %s\n", path(), path());
		else if (r < 91)
			s += sprintf(s, "remount %s %s\n", path(), flag_sets[below(5)]);
		else if (r < 94)
			s += sprintf(s, "chdir %s\n", path());
		else if (r < 96)
			s += sprintf(s, "rmdir %s\n", path());
		else if (r < 98)
			s += sprintf(s, "rename %s %s\n", path(), path());
		else if (r < 99)
			s += sprintf(s, "mkdir %s\n", path());
		else
			s += sprintf(s, "chroot %s\n", path());
	}
}

/* An actor */

static int result(int r)
{
	return r < 0 ? errno : 0;
}

static unsigned long propagation(const char *kind)
{
	return !strcmp(kind, "shared")	  ? MS_SHARED
	       : !strcmp(kind, "slave")	  ? MS_SLAVE
	       : !strcmp(kind, "private") ? MS_PRIVATE
					  : MS_UNBINDABLE;
}

/* The detached trees of this actor; 0 for none. */
static int trees[TREES];

static int perform(char *line)
{
	char op[32] = "", a[64] = "", b[64] = "";
	sscanf(line, "%31s %63s %63s", op, a, b);
	if (!strcmp(op, "tmpfs")) {
		if (mount(b, a, "tmpfs", 0, "mode=755"))
			return errno;
		skeleton(a);
		return 0;
	}
	if (!strcmp(op, "bind"))
		return result(mount(a, b, NULL, MS_BIND, NULL));
	if (!strcmp(op, "rbind"))
		return result(mount(a, b, NULL, MS_BIND | MS_REC, NULL));
	if (!strcmp(op, "move"))
		return result(mount(a, b, NULL, MS_MOVE, NULL));
	if (!strncmp(op, "make-", 5)) {
		unsigned long flags = 0;
		const char *kind = op + 5;
		if (*kind == 'r')
			flags |= MS_REC, kind++;
		flags |= propagation(kind);
		return result(mount(NULL, a, NULL, flags, NULL));
	}
	if (!strcmp(op, "umount"))
		return result(umount2(a, *b == 'l' ? MNT_DETACH : *b == 'e' ? MNT_EXPIRE : 0));
	if (!strcmp(op, "unshare"))
		return result(unshare(CLONE_NEWNS));
	if (!strcmp(op, "unshareuser")) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
			return errno;
		const char *const files[] = { "self/setgroups", "self/uid_map", "self/gid_map" };
		const char *const texts[] = { "deny", "0 0 1", "0 0 1" };
		for (int i = 0; i < 3; i++) {
			int fd = openat(proc_fd, files[i], O_WRONLY);
			if (fd < 0 || write(fd, texts[i], strlen(texts[i])) < 0)
				return 1000 + i;
			close(fd);
		}
		return 0;
	}
	if (!strcmp(op, "tree") || !strcmp(op, "treer")) {
		int *tree = &trees[atoi(b)];
		int fd = open_tree(AT_FDCWD, a, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (op[4] ? AT_RECURSIVE : 0));
		if (fd < 0)
			return errno;
		if (*tree > 0)
			close(*tree);
		*tree = fd;
		return 0;
	}
	if (!strcmp(op, "attach"))
		return result(move_mount(trees[atoi(a)] ?: -1, "", AT_FDCWD, b, MOVE_MOUNT_F_EMPTY_PATH));
	if (!strcmp(op, "close")) {
		int *tree = &trees[atoi(a)], fd = *tree ?: -1;
		*tree = 0;
		return result(close(fd));
	}
	if (!strncmp(op, "retype-", 7)) {
		const char *kind = op + 7;
		int recursive = *kind == 'r' ? AT_RECURSIVE : 0;
		struct mount_attr attr = { .propagation = propagation(kind + !!recursive) };
		return result(mount_setattr(trees[atoi(a)] ?: -1, "", AT_EMPTY_PATH | recursive, &attr, sizeof attr));
	}
	if (!strncmp(op, "setattr", 7)) {
		struct mount_attr attr = { 0 };
		if (!strcmp(b, "ro"))
			attr.attr_set = MOUNT_ATTR_RDONLY;
		if (!strcmp(b, "rw"))
			attr.attr_clr = MOUNT_ATTR_RDONLY;
		if (!strcmp(b, "nosuid"))
			attr.attr_set = MOUNT_ATTR_NOSUID;
		if (!strcmp(b, "nodev,noexec"))
			attr.attr_set = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
		if (!strcmp(b, "noatime"))
			attr.attr_set = MOUNT_ATTR_NOATIME, attr.attr_clr = MOUNT_ATTR__ATIME;
		return result(mount_setattr(AT_FDCWD, a, op[7] ? AT_RECURSIVE : 0, &attr, sizeof attr));
	}
	if (!strcmp(op, "setns")) {
		char name[64];
		snprintf(name, sizeof name, "%d/ns/mnt", pids[atoi(a)]);
		int fd = openat(proc_fd, name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return errno;
		int r = result(setns(fd, CLONE_NEWNS));
		close(fd);
		return r;
	}
	if (!strcmp(op, "pivot"))
		return result(syscall(SYS_pivot_root, a, b));
	if (!strcmp(op, "remount")) {
		unsigned long flags = MS_REMOUNT | MS_BIND;
		if (!strcmp(b, "ro"))
			flags |= MS_RDONLY;
		if (!strcmp(b, "nosuid"))
			flags |= MS_NOSUID;
		if (!strcmp(b, "nodev,noexec"))
			flags |= MS_NODEV | MS_NOEXEC;
		if (!strcmp(b, "noatime"))
			flags |= MS_NOATIME;
		return result(mount(NULL, a, NULL, flags, NULL));
	}
	if (!strcmp(op, "chdir"))
		return result(chdir(a));
	if (!strcmp(op, "chroot"))
		return result(chroot(a));
	if (!strcmp(op, "mkdir"))
		return result(mkdir(a, 0755));
	if (!strcmp(op, "rmdir"))
		return result(rmdir(a));
	if (!strcmp(op, "rename"))
		return result(rename(a, b));
	printf("what is %s?\n", op);
	_exit(2);
}

static int read_proc(const char *name, char *text, int size)
{
	int fd = openat(proc_fd, name, O_RDONLY | O_CLOEXEC), len = 0, n;
	if (fd < 0)
		world_failed(name);
	while ((n = read(fd, text + len, size - 1 - len)) > 0)
		len += n;
	text[len] = 0;
	close(fd);
	return len;
}

static void act(int fd)
{
	static char text[TEXT];
	char line[256];
	for (;;) {
		int n = recv(fd, line, sizeof line - 1, 0);
		if (n <= 0)
			_exit(0);
		line[n] = 0;
		if (!strcmp(line, "show")) {
			/* The link of the namespace goes first. */
			char ns[64] = "";
			int len = readlinkat(proc_fd, "self/ns/mnt", ns, sizeof ns - 1);
			len = sprintf(text, "%.*s\n", len > 0 ? len : 0, ns);
			len += read_proc("self/mountinfo", text + len, TEXT - len);
			for (int at = 0; at <= len;) {
				int part = len - at < 8192 ? len - at : 8192;
				if (send(fd, text + at, part ? part : 1, 0) < 0)
					_exit(3);
				if (!part)
					break;
				at += part;
				if (at == len) {
					send(fd, "", 1, 0);
					break;
				}
			}
			continue;
		}
		int r = perform(line);
		if (send(fd, &r, sizeof r, 0) < 0)
			_exit(3);
	}
}

/* What is shown of mountinfo */

struct line {
	int id, parent, shared, master, from, unbindable, done;
	char root[256], point[256], opts[128], source[64], super[8];
};

static struct line lines[1024];
static int nlines;
static int groups[4096], ngroups;

static int group(int id)
{
	for (int i = 0; i < ngroups; i++)
		if (groups[i] == id)
			return i + 1;
	if (ngroups < 4096)
		groups[ngroups++] = id;
	return ngroups;
}

static void parse(char *text)
{
	nlines = 0;
	for (char *l = strtok(text, "\n"); l && nlines < 1024; l = strtok(NULL, "\n")) {
		struct line *m = &lines[nlines++];
		memset(m, 0, sizeof *m);
		int at = 0;
		if (sscanf(l, "%d %d %*s %255s %255s %127s%n", &m->id, &m->parent, m->root, m->point, m->opts, &at) < 5)
			world_failed(l);
		char *rest = l + at, *dash = strstr(rest, " - ");
		char *tag;
		*dash = 0;
		if ((tag = strstr(rest, "shared:")))
			m->shared = atoi(tag + 7);
		if ((tag = strstr(rest, "master:")))
			m->master = atoi(tag + 7);
		if ((tag = strstr(rest, "propagate_from:")))
			m->from = atoi(tag + 15);
		m->unbindable = !!strstr(rest, "unbindable");
		sscanf(dash + 3, "%*s %63s %2[rwo]", m->source, m->super);
	}
}

static void show_line(struct line *m, int depth)
{
	m->done = 1;
	/* What is below the roots of all namespaces differs from system to system. */
	if (!strcmp(m->source, "rootfs") || !strcmp(m->source, "none"))
		out("  %*s%s rootfs", depth, "", m->point);
	else
		out("  %*s%s root=%s %s %s %s", depth, "", m->point, m->root, m->opts, m->source, m->super);
	if (m->shared)
		out(" shared:%d", group(m->shared));
	if (m->master)
		out(" master:%d", group(m->master));
	if (m->from)
		out(" propagate_from:%d", group(m->from));
	out("%s\n", m->unbindable ? " unbindable" : "");
	for (;;) {
		struct line *next = NULL;
		for (int i = 0; i < nlines; i++) {
			struct line *c = &lines[i];
			if (!c->done && c->parent == m->id && c->id != m->id &&
			    (!next || strcmp(c->point, next->point) < 0 ||
			     (!strcmp(c->point, next->point) && strcmp(c->source, next->source) < 0)))
				next = c;
		}
		if (!next)
			break;
		show_line(next, depth + 1);
	}
}

static int is_top(struct line *m)
{
	for (int i = 0; i < nlines; i++)
		if (lines[i].id == m->parent && &lines[i] != m)
			return 0;
	return 1;
}

static void show(int who, char *text, char spaces[ACTORS][64])
{
	char *end = strchr(text, '\n');
	*end = 0;
	snprintf(spaces[who], 64, "%.63s", text);
	int same = 0;
	while (strcmp(spaces[same], text))
		same++;
	out(" actor %d, namespace of %d\n", who, same);
	parse(end + 1);
	for (;;) {
		struct line *next = NULL;
		for (int i = 0; i < nlines; i++) {
			struct line *c = &lines[i];
			if (!c->done && is_top(c) && (!next || strcmp(c->point, next->point) < 0))
				next = c;
		}
		if (!next)
			break;
		show_line(next, 0);
	}
	for (int i = 0; i < nlines; i++)
		if (!lines[i].done)
			out("  loop at %s\n", lines[i].point);
}

/* One sequence, in a world of its own */

static void run(char *script)
{
	static char text[TEXT];
	char spaces[ACTORS][64];
	int ends[ACTORS];
	int gate[2];
	if (pipe(gate))
		world_failed("pipe");
	for (int i = 0; i < ACTORS; i++) {
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
			world_failed("socketpair");
		pids[i] = fork();
		if (!pids[i]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(pair[0]);
			close(gate[1]);
			/* All of them know the numbers of all. */
			if (read(gate[0], pids, sizeof pids) != sizeof pids)
				_exit(4);
			act(pair[1]);
		}
		close(pair[1]);
		ends[i] = pair[0];
	}
	for (int i = 0; i < ACTORS; i++)
		if (write(gate[1], pids, sizeof pids) != sizeof pids)
			world_failed("write");
	char *save = NULL;
	for (char *line = strtok_r(script, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		int who = *line - '0', r = -1;
		if (who < 0 || who >= ACTORS)
			world_failed(line);
		if (send(ends[who], line + 2, strlen(line + 2), 0) < 0 || recv(ends[who], &r, sizeof r, 0) != sizeof r)
			world_failed("an actor is gone");
		if (verbose)
			printf("> %s: ", line);
		else
			printf(" %d", r);
		out(verbose ? "%s\n" : "%s", r ? strerrorname_np(r) : "ok");
		ngroups = 0;
		for (int i = 0; i < ACTORS; i++) {
			int len = 0, n;
			send(ends[i], "show", 4, 0);
			while ((n = recv(ends[i], text + len, TEXT - len - 1, 0)) > 0) {
				if (n == 1 && !text[len])
					break;
				len += n;
			}
			text[len] = 0;
			show(i, text, spaces);
		}
	}
	for (int i = 0; i < ACTORS; i++)
		close(ends[i]);
	while (wait(NULL) > 0)
		;
}

static void sequence(char *script)
{
	char dir[] = "/tmp/mounts.XXXXXX";
	if (!mkdtemp(dir))
		world_failed("mkdtemp");
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		world(dir);
		run(script);
		if (!verbose)
			printf(" %016llx\n", (unsigned long long)digest);
		fflush(stdout);
		_exit(0);
	}
	int status;
	waitpid(child, &status, 0);
	if (status)
		printf(" status %x\n", status);
	rmdir(dir);
}

int main(int argc, char **argv)
{
	return random_main(argc, argv, 60, WIDER, generate, sequence);
}
