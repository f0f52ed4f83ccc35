/* Tracing misused: the shim's memory, another user's process, a set-user-ID program, a memory handle that outlives an exec,
 * tracees that lie. Runs as root of the sandbox; the harm is done by user 1000. */
#include "abuse.h"
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>

static volatile long mark = 1;

static void become_user(void)
{
	if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000)) _exit(90);
	prctl(PR_SET_DUMPABLE, 1);
}

static int euid_of(pid_t pid)
{
	char path[64], line[256];
	int uid = -1, euid = -1;
	sprintf(path, "/proc/%d/status", pid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f)) sscanf(line, "Uid: %d %d", &uid, &euid);
	if (f) fclose(f);
	return euid;
}

static void shim_memory(pid_t pid)
{
	for (unsigned long at = SHIM_LOW - 0x1000; at < SHIM_LOW + 0x100000; at += 0x1000) {
		errno = 0;
		ptrace(PTRACE_PEEKDATA, pid, at, 0);
		if (!errno) printf("ESCAPED: peeked %lx\n", at);
		if (ptrace(PTRACE_POKEDATA, pid, at, 0) == 0) printf("ESCAPED: poked %lx\n", at);
		char byte;
		struct iovec here = { &byte, 1 }, there = { (void *)at, 1 };
		if (process_vm_readv(pid, &here, 1, &there, 1, 0) > 0) printf("ESCAPED: read %lx\n", at);
	}
}

static void of_root(pid_t root)
{
	char path[64];
	long value = 666;
	struct iovec here = { &value, 8 }, there = { (void *)&mark, 8 };
	if (ptrace(PTRACE_ATTACH, root, 0, 0) == 0) printf("ESCAPED: attached to root\n");
	if (ptrace(PTRACE_SEIZE, root, 0, 0) == 0) printf("ESCAPED: seized root\n");
	if (process_vm_writev(root, &here, 1, &there, 1, 0) > 0) printf("ESCAPED: wrote to root\n");
	if (process_vm_readv(root, &here, 1, &there, 1, 0) > 0) printf("ESCAPED: read from root\n");
	sprintf(path, "/proc/%d/mem", root);
	if (open(path, O_RDWR) >= 0 || open(path, O_RDONLY) >= 0) printf("ESCAPED: opened root's memory\n");
}

static void suid_traced(char *program)
{
	pid_t pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		execl(program, program, "privileged", (char *)NULL);
		_exit(91);
	}
	int status;
	waitpid(pid, &status, 0);
	if (euid_of(pid) != 1000) printf("ESCAPED: traces a program of user %d\n", euid_of(pid));
	ptrace(PTRACE_CONT, pid, 0, 0);
	waitpid(pid, &status, 0);
	if (WEXITSTATUS(status) != 1) printf("what a traced set-user-ID program said: %x\n", status);
}

/* While the exec is under way, over and over. */
static void suid_raced(char *program)
{
	for (int i = 0; i < 60; i++) {
		int out[2], go[2];
		char said[16] = "", c;
		pipe(out);
		pipe(go);
		pid_t pid = fork();
		if (!pid) {
			dup2(out[1], 1);
			read(go[0], &c, 1);
			execl(program, program, "privileged", (char *)NULL);
			_exit(91);
		}
		close(out[1]);
		char path[64], again[64];
		sprintf(path, "/proc/%d/mem", pid);
		int held = open(path, O_RDWR);
		if (held < 0) printf("cannot open a child's memory\n");
		write(go[1], "g", 1);
		int attached = 0, wrote = 0;
		for (int k = 0; k < 400 && !attached; k++) {
			long value = 666;
			struct iovec here = { &value, 8 }, there = { (void *)&mark, 8 };
			process_vm_writev(pid, &here, 1, &there, 1, 0);
			int fd = open(path, O_RDWR);
			if (fd >= 0) close(fd);
			if (euid_of(pid) == 0) {
				if (fd >= 0 && euid_of(pid) == 0) wrote |= pwrite(fd, &value, 8, SHIM_LOW) > 0;
				if (ptrace(PTRACE_ATTACH, pid, 0, 0) == 0) attached = 1;
				if (held >= 0 && pwrite(held, &value, 8, SHIM_LOW) > 0) printf("ESCAPED: the old handle reaches the new memory\n");
				sprintf(again, "/proc/self/fd/%d", held);
				if (open(again, O_RDWR) >= 0) printf("ESCAPED: the handle opens again\n");
				break;
			}
		}
		if (attached) printf("ESCAPED: attached to a set-user-ID program\n");
		if (wrote) printf("ESCAPED: wrote to a set-user-ID program\n");
		close(held);
		close(go[0]);
		close(go[1]);
		read(out[0], said, sizeof said - 1);
		close(out[0]);
		reap_within(pid, 5000);
		if (strncmp(said, "0 1", 3)) printf("ESCAPED: the set-user-ID program says %s\n", said);
	}
}

/* Forged stops, with anything in them: a tracee that lies deceives its tracer only. */
static void lies(void)
{
	pid_t pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		struct slot *slot = own_slots();
		for (int i = 0; slot && i < 400; i++) {
			slot->nr = 0x8040 + rng() % 4;
			for (int a = 0; a < 6; a++) slot->args[a] = rng() % 5 ? rng() % 9 : rng();
			for (int b = 0; b < 376; b += 8) *(uint64_t *)(slot->data + b) = rng();
			raw6(GATE, 1, 0, GATE_MAGIC, 0, 0, 0);
		}
		_exit(0);
	}
	for (int i = 0; i < 2000; i++) {
		int status;
		if (waitpid(pid, &status, WNOHANG | __WALL) == pid && !WIFSTOPPED(status)) return;
		struct user_regs_struct regs;
		char state[9000];
		struct iovec iov = { state, sizeof state };
		ptrace(PTRACE_GETREGS, pid, 0, &regs);
		ptrace(PTRACE_GETREGSET, pid, 0x202, &iov);
		ptrace(PTRACE_SETREGSET, pid, 0x202, &iov);
		ptrace(rng() % 2 ? PTRACE_CONT : PTRACE_SYSCALL, pid, 0, 0);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "privileged")) {
		if (geteuid()) return 1;
		msleep(3);
		dprintf(1, "%d %ld", geteuid(), mark);
		return 0;
	}
	char *program = "/tmp/privileged";
	char command[128];
	sprintf(command, "cp /proc/%d/exe %s && chmod 4755 %s", getpid(), program, program);
	if (system(command)) return 92;
	pid_t root = fork();
	if (!root) {
		pause();
		_exit(0);
	}
	become_user();
	of_root(root);
	of_root(1);
	pid_t own = fork();
	if (!own) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(own, NULL, 0);
	shim_memory(own);
	ptrace(PTRACE_KILL, own, 0, 0);
	waitpid(own, NULL, 0);
	suid_traced(program);
	suid_raced(program);
	lies();
	puts("done");
	return 0;
}
