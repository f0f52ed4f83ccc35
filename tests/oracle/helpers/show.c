/* Prints how it was started: arguments, environment, auxiliary vector. Built dynamic, static, static-pie and non-PIE. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;
static int zero;
static int data = 5;

int main(int argc, char **argv)
{
	char exe[4096] = "";
	for (int i = 0; i < argc; i++) printf("argv[%d] \"%s\"\n", i, argv[i]);
	printf("argv ends: %s\n", argv[argc] ? "no" : "yes");
	int n = 0;
	for (char **e = environ; *e; e++, n++)
		if (strncmp(*e, "SHOW", 4) == 0) printf("env \"%s\"\n", *e);
	if (n < 5) printf("%d variables\n", n);
	const char *fn = (const char *)getauxval(AT_EXECFN);
	printf("AT_EXECFN \"%s\"\n", fn ? fn : "");
	printf("uid %d euid %d gid %d egid %d secure %lu\n", getauxval(AT_UID) == getuid(), getauxval(AT_EUID) == geteuid(),
	       getauxval(AT_GID) == getgid(), getauxval(AT_EGID) == getegid(), getauxval(AT_SECURE));
	printf("pagesz %lu clktck %lu phent %lu phdr %d random %d entry %d platform %s vdso %d\n", getauxval(AT_PAGESZ),
	       getauxval(AT_CLKTCK), getauxval(AT_PHENT), getauxval(AT_PHDR) != 0, getauxval(AT_RANDOM) != 0,
	       getauxval(AT_ENTRY) != 0, (const char *)getauxval(AT_PLATFORM), getauxval(AT_SYSINFO_EHDR) != 0);
	if (readlink("/proc/self/exe", exe, sizeof exe - 1) > 0) printf("exe .../%s\n", strrchr(exe, '/') + 1);
	char comm[64] = "";
	FILE *f = fopen("/proc/self/comm", "r");
	if (f && fgets(comm, sizeof comm, f)) printf("comm %s", comm);
	if (f) fclose(f);
	/* A break that works and bss that is zero. */
	char *b = sbrk(0);
	printf("brk %d bss %d data %d\n", sbrk(8192) == b && (b[100] = 1), zero, data);
	return argc > 1 && strcmp(argv[1], "fail") == 0 ? 33 : 0;
}
