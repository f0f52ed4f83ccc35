/* Control groups as deep and as many as they get, files written with garbage, tasks moved and killed while groups come and go:
 * the limits answer, and the supervisor goes on. */
#include "abuse.h"

#define ROOT "/sys/fs/cgroup"

static int put(const char *path, const void *text, size_t n)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0) return -1;
	int r = write(fd, text, n);
	close(fd);
	return r;
}

int main(void)
{
	static char big[70000];
	char path[256];
	int deep = 0, many = 0;
	if (chdir(ROOT)) return 1;
	while (deep < 5000 && !mkdir("d", 0755) && !chdir("d")) deep++;
	if (deep >= 5000) printf("ESCAPED: no limit of depth\n");
	put("cgroup.procs", "0", 1);
	put("/proc/self/comm", "deep", 4);
	int fd = open("/proc/self/cgroup", O_RDONLY);
	if (fd < 0 || read(fd, big, sizeof big) < deep * 2) printf("the path is cut off\n");
	close(fd);
	put(ROOT "/cgroup.procs", "0", 1);
	if (chdir(ROOT) || mkdir("m", 0755)) return 1;
	for (; many < 40000; many++) {
		snprintf(path, sizeof path, ROOT "/m/%d", many);
		if (mkdir(path, 0755)) break;
	}
	if (many >= 40000) printf("ESCAPED: no limit of groups\n");
	memset(big, 'x', sizeof big);
	static const char *const files[] = { "procs", "threads", "subtree_control", "type", "max.depth", "max.descendants", "kill" };
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof path, ROOT "/m/%d/cgroup.%s", i % 4, files[i % 7]);
		for (size_t k = 0; k < 64; k++) big[k] = (char)rng();
		put(path, big, i % 11 ? rng() % 64 : sizeof big);
	}
	/* Children that move themselves about while they are killed and their groups removed. */
	for (int round = 0; round < 30; round++) {
		pid_t pid = fork();
		if (!pid) {
			for (int i = 0;; i++) {
				snprintf(path, sizeof path, ROOT "/m/%d/cgroup.procs", 8 + i % 4);
				put(path, "0", 1);
				if (i % 3 == 0 && !fork()) for (;;) pause();
			}
		}
		usleep(3000);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		for (int i = 8; i < 12; i++) {
			snprintf(path, sizeof path, ROOT "/m/%d/cgroup.kill", i);
			put(path, "1", 1);
			snprintf(path, sizeof path, ROOT "/m/%d", i);
			rmdir(path);
			mkdir(path, 0755);
		}
	}
	printf("depth %d, groups %d\n", deep, many);
	return 0;
}
