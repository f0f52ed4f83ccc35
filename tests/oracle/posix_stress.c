/* oracle: user
 * Several processes make, link, rename, write and remove the same few names at once; then the tree must be consistent: links
 * counted, types and numbers those of readdir, every name found again, every file whole, all of it removable. */
#include "posix.h"
#include <dirent.h>

#define PROCS 4
#define STEPS 2500

static uint64_t state;
static unsigned rnd(unsigned below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}
static const char *pick(void)
{
	static char b[4][64];
	static int k;
	char *o = b[k++ % 4];
	int depth = rnd(3);
	o[0] = 0;
	for (int i = 0; i < depth; i++) sprintf(o + strlen(o), "d%u/", rnd(4));
	sprintf(o + strlen(o), "%c%u", rnd(3) ? 'f' : 'd', rnd(4));
	return o;
}

/* Every file holds whole records of the one who wrote it. */
static void churn(int who)
{
	state = 88172645463325252u + who * 7919;
	char rec[64], b[256];
	memset(rec, 'a' + who, sizeof rec);
	rec[63] = '\n';
	struct stat st;
	for (int i = 0; i < STEPS; i++) {
		const char *p = pick(), *q = pick();
		int fd, ok = 0;
		switch (rnd(13)) {
		case 0: case 1: case 2:
			fd = open(p, O_WRONLY | O_CREAT | O_APPEND, 0644);
			if (fd >= 0) {
				if (write(fd, rec, sizeof rec) != sizeof rec) printf("short write: %s\n", name_of(errno));
				close(fd);
			}
			continue;
		case 3: ok = mkdir(p, 0755); break;
		case 4: ok = rename(p, q); break;
		case 5: ok = link(p, q); break;
		case 6: ok = unlink(p); break;
		case 7: ok = rmdir(p); break;
		case 8: ok = symlink(p, q); break;
		case 9: ok = syscall(SYS_renameat2, AT_FDCWD, p, AT_FDCWD, q, RENAME_EXCHANGE); break;
		case 10: {
			DIR *d = opendir(p);
			if (d) {
				while (readdir(d))
					;
				closedir(d);
			}
			continue;
		}
		case 11: ok = lstat(p, &st); break;
		case 12:
			fd = open(p, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
			if (fd >= 0) {
				long n = read(fd, b, sizeof b);
				for (long k = 0; k + 63 < n; k += 64)
					if (b[k] < 'a' || b[k] >= 'a' + PROCS || b[k + 63] != '\n') printf("a torn record\n");
				close(fd);
			}
			continue;
		}
		if (ok && !strchr("\2\21\24\25\26\47\50\34\1\20\22\36", errno)) /* those that such a mêlée gives */
			printf("odd: %s %s %s\n", p, q, name_of(errno));
	}
}

static struct { ino_t ino; int names, links; } files[4096];
static int nfiles;
static void check(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	struct stat st;
	int subdirs = 0;
	char seen[4096] = " ";
	if (!d) {
		printf("%s: %s\n", dir, name_of(errno));
		return;
	}
	while ((e = readdir(d))) {
		char p[5000], word[300];
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
		snprintf(word, sizeof word, " %s ", e->d_name);
		if (strstr(seen, word)) printf("%s/%s twice\n", dir, e->d_name);
		strcat(seen, word + 1);
		snprintf(p, sizeof p, "%s/%s", dir, e->d_name);
		if (lstat(p, &st)) {
			printf("%s is listed: %s\n", p, name_of(errno));
			continue;
		}
		if (e->d_ino != st.st_ino || e->d_type != IFTODT(st.st_mode)) printf("%s: number or type differ\n", p);
		if (S_ISDIR(st.st_mode)) {
			subdirs++;
			check(p);
			continue;
		}
		int i = 0;
		while (i < nfiles && files[i].ino != st.st_ino) i++;
		if (i == nfiles) files[nfiles++].ino = st.st_ino;
		files[i].names++;
		files[i].links = st.st_nlink;
		if (S_ISREG(st.st_mode)) {
			static char b[1 << 20];
			int fd = open(p, O_RDONLY);
			long n = read(fd, b, sizeof b);
			if (n != st.st_size || n % 64) printf("%s: size %ld, read %ld\n", p, (long)st.st_size, n);
			for (long k = 0; k + 63 < n; k += 64)
				for (int j = 1; j < 63; j++)
					if (b[k + j] != b[k]) {
						printf("%s: record %ld torn\n", p, k / 64);
						break;
					}
			close(fd);
		}
	}
	closedir(d);
	M(stat(dir, &st));
	if (st.st_nlink != 2 + subdirs) printf("%s has %d links and %d directories\n", dir, (int)st.st_nlink, subdirs);
}

int main(void)
{
	M(mkdir("w", 0755));
	M(chdir("w"));
	for (int i = 0; i < 4; i++) {
		char p[16];
		sprintf(p, "d%d", i);
		M(mkdir(p, 0755));
	}
	pid_t c[PROCS];
	for (int i = 0; i < PROCS; i++)
		if (!(c[i] = fork())) {
			churn(i);
			_exit(0);
		}
	for (int i = 0; i < PROCS; i++) reap("process", c[i]);
	check(".");
	for (int i = 0; i < nfiles; i++)
		if (files[i].names != files[i].links) printf("a file with %d names has %d links\n", files[i].names, files[i].links);
	wipe();
	check(".");
	M(chdir(".."));
	T(rmdir("w"));
	return 0;
}
