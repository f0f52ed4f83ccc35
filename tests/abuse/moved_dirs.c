/* Directories moved about while others walk through them: /up and /low are binds of one host directory and of a directory in it,
 * both written through. Whatever is moved out of /low, or turned into a symbolic link, nobody gets above the two. */
#include "abuse.h"
#include <pthread.h>
#include <sys/mount.h>

static const char *token;
static volatile int stop;

static void reached(const char *what, int dirfd, const char *name)
{
	char b[256] = "";
	int fd = openat(dirfd, name, O_RDONLY | O_NONBLOCK);
	if (fd < 0) return;
	long n = read(fd, b, sizeof b - 1);
	if (n > 0 && strstr(b, token)) printf("ESCAPED %s: %s\n", what, name);
	close(fd);
}

/* Moves the directory out of /low and back, and now and then leaves a link in its place. */
static void *mover(void *arg)
{
	while (!stop) {
		rename("/up/low/sub", "/up/away/sub");
		if (symlink("../..", "/low/sub") == 0) {
			sched_yield();
			unlink("/up/low/sub");
		}
		rename("/up/away/sub", "/up/low/sub");
		renameat2(AT_FDCWD, "/up/low/sub", AT_FDCWD, "/up/low/link", RENAME_EXCHANGE);
		sched_yield();
		renameat2(AT_FDCWD, "/up/low/sub", AT_FDCWD, "/up/low/link", RENAME_EXCHANGE);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	token = argv[1];
	const char *ways[] = { "../canary", "../../canary", "../../../canary", "../../../../canary", "sub/../../canary", "sub/deep/../../../canary",
		"sub/deep/../../../../canary", "link/../canary", "link/canary", "sub/canary", "deep/../../../canary" };
	int n = sizeof ways / sizeof *ways;
	pthread_t t[2];
	symlink("../..", "/low/link");
	for (int i = 0; i < 2; i++) pthread_create(&t[i], NULL, mover, NULL);
	struct timespec start, now;
	clock_gettime(CLOCK_MONOTONIC, &start);
	unsigned long tries = 0;
	do {
		const char *at[] = { "/low", "/low/sub", "/low/sub/deep", "/up/low/sub", "/up/away/sub" };
		const char *from = at[rng() % 5];
		int d = open(from, O_RDONLY | O_DIRECTORY);
		int cwd = chdir(from);
		for (int i = 0; i < n; i++) {
			reached("from the working directory", AT_FDCWD, ways[i]);
			if (d >= 0) reached("from a handle", d, ways[i]);
			/* What is outside must not be changed either. */
			if (cwd == 0) {
				unlink(ways[i]);
				truncate(ways[i], 0);
				chmod(ways[i], 0);
				rename(ways[i], "taken");
				link(ways[i], "linked");
				close(open(ways[i], O_WRONLY | O_CREAT | O_EXCL, 0600));
			}
		}
		if (d >= 0) {
			int up = openat(d, "..", O_RDONLY | O_DIRECTORY);
			if (up >= 0) {
				reached("from a parent's handle", up, "canary");
				reached("from a parent's handle", up, "../canary");
				close(up);
			}
			/* By mounts of what is being moved, or of what a link led to. */
			int tree = syscall(SYS_open_tree, d, "..", 1 | O_CLOEXEC);
			if (tree >= 0) {
				reached("from a tree", tree, "canary");
				reached("from a tree", tree, "../canary");
				if (syscall(SYS_move_mount, tree, "", AT_FDCWD, "/mnt", 4) == 0) {
					reached("from a moved tree", AT_FDCWD, "/mnt/canary");
					reached("from a moved tree", AT_FDCWD, "/mnt/../up/../canary");
					umount2("/mnt", MNT_DETACH);
				}
				close(tree);
			}
			close(d);
		}
		char source[64];
		snprintf(source, sizeof source, "%s/..", from);
		if (mount(source, "/mnt", NULL, MS_BIND, NULL) == 0) {
			reached("from a bind", AT_FDCWD, "/mnt/canary");
			reached("from a bind", AT_FDCWD, "/mnt/../canary");
			umount2("/mnt", MNT_DETACH);
		}
		mount("/low/link", "/mnt", NULL, MS_BIND, NULL);
		reached("from a bind of a link", AT_FDCWD, "/mnt/canary");
		umount2("/mnt", MNT_DETACH);
		chdir("/");
		tries++;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec - start.tv_sec < 3);
	stop = 1;
	for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
	printf("%s\n", tries > 20 ? "tried often enough" : "hardly tried");
	return 0;
}
