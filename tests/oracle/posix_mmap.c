/* oracle: user
 * One file seen through memory, read and write, by several processes and names: always the same bytes. Also past the end,
 * truncated under a map, and over rename and unlink. */
#include "posix.h"
#include <setjmp.h>

static sigjmp_buf away;
static volatile int caught;
static void on_bus(int s) { caught = s; siglongjmp(away, 1); }

#define TOUCH(what, ...)                                                         \
	do {                                                                     \
		caught = 0;                                                      \
		if (!sigsetjmp(away, 1)) { __VA_ARGS__; }                        \
		printf("%s: %s\n", what, caught ? sigabbrev_np(caught) : "ok");  \
	} while (0)

int main(void)
{
	struct stat st;
	char b[64] = "";
	signal(SIGBUS, on_bus);
	signal(SIGSEGV, on_bus);
	put_file("f", "0123456789", 0600);
	int fd = M(open("f", O_RDWR)), ro = M(open("f", O_RDONLY));
	char *s = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *r = mmap(NULL, 8192, PROT_READ, MAP_SHARED, ro, 0);
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0);
	printf("maps %d %d %d\n", s != MAP_FAILED, r != MAP_FAILED, p != MAP_FAILED);
	T(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, ro, 0) == MAP_FAILED ? -1 : 0);
	T(mprotect(r, 4096, PROT_READ | PROT_WRITE));
	T(mprotect(p, 4096, PROT_READ | PROT_WRITE));
	s[0] = 'S';
	T(pread(ro, b, 3, 0));
	printf("%.3s %.3s %.3s\n", b, r, p);
	T(pwrite(fd, "W", 1, 1));
	printf("%.3s %.3s %.3s\n", s, r, p);
	p[2] = 'P';
	T(pwrite(fd, "xy", 2, 2));
	printf("%.4s %.4s %.4s\n", s, r, p);
	CHILD("child writes", s[4] = 'C'; int f2 = M(open("f", O_RDWR)); M(pwrite(f2, "D", 1, 5)));
	printf("%.10s\n", r);
	M(rename("f", "g"));
	M(link("g", "h"));
	M(unlink("g"));
	CHILD("child by the other name", int f2 = M(open("h", O_RDWR)); char *m = mmap(NULL, 10, PROT_READ | PROT_WRITE, MAP_SHARED, f2, 0); m[6] = 'E'; M(msync(m, 10, MS_SYNC)));
	printf("%.10s\n", r);
	M(chmod("h", 0400));
	M(utimensat(AT_FDCWD, "h", NULL, 0));
	s[7] = 'F';
	print_file("h");
	M(unlink("h"));
	s[8] = 'G';
	T(pread(ro, b, 10, 0));
	printf("%.10s\n", b);
	TOUCH("rest of the page", s[4000] = 'x');
	TOUCH("past the last page", s[4096] = 'x');
	M(ftruncate(fd, 5000));
	TOUCH("after growing", s[4096] = 'y');
	T(pread(ro, b, 1, 4000));
	printf("beyond the old end %d\n", b[0]);
	M(ftruncate(fd, 0));
	TOUCH("after truncation", b[0] = s[0]);
	M(ftruncate(fd, 4096));
	TOUCH("grown again", b[0] = s[0]);
	printf("zero %d\n", b[0]);
	M(fstat(fd, &st));
	printf("size %ld links %d\n", (long)st.st_size, (int)st.st_nlink);
	munmap(s, 8192);
	munmap(r, 8192);
	munmap(p, 8192);
	/* Two processes count in one shared word, one through a map made before the file was replaced by rename. */
	put_file("n", "", 0600);
	fd = M(open("n", O_RDWR));
	M(ftruncate(fd, 4096));
	int *n = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	pid_t c[2];
	for (int i = 0; i < 2; i++)
		if (!(c[i] = fork())) {
			int f2 = i ? fd : M(open("n", O_RDWR));
			int *m = i ? n : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, f2, 0);
			for (int k = 0; k < 100000; k++) __atomic_add_fetch(m, 1, __ATOMIC_RELAXED);
			_exit(0);
		}
	for (int i = 0; i < 2; i++) waitpid(c[i], NULL, 0);
	printf("counted %d\n", *n);
	put_file("n2", "new", 0600);
	M(rename("n2", "n"));
	n[1] = 7;
	print_file("n");
	/* The map keeps the file when the descriptor is closed, and /proc/self/maps knows its name. */
	close(fd);
	n[2] = 8;
	printf("%d %d\n", n[1], n[2]);
	FILE *f = fopen("/proc/self/maps", "r");
	char line[5000];
	while (fgets(line, sizeof line, f))
		if (strtoul(line, NULL, 16) == (unsigned long)n) printf("deleted in maps %d shared %d\n", strstr(line, "/n (deleted)") != NULL, strstr(line, "rw-s") != NULL);
	fclose(f);
	fd = M(open(".", O_RDONLY));
	T(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
	T(mmap(NULL, 0, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
	T(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 1) == MAP_FAILED ? -1 : 0);
	int wo = M(open("n", O_WRONLY));
	T(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, wo, 0) == MAP_FAILED ? -1 : 0);
	T(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, wo, 0) == MAP_FAILED ? -1 : 0);
	return 0;
}
