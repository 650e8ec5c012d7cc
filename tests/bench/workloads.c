/* The init of bench-engine's guest: six workloads, each between two marks on the console. The host's clock is what counts; the
 * sums show that the work was done, and that it was the same everywhere. */
#include <fcntl.h>
#include <regex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static uint64_t seed;

static uint32_t draw(void)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(seed >> 32);
}

static uint64_t syscalls(void)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < 1000000; i++)
		sum += (uint64_t)syscall(SYS_getppid) + 1;
	return sum;
}

/* Registers and branches: lengths of Collatz's sequences, and divisions. */
static uint64_t integer(void)
{
	uint64_t sum = 0;
	for (uint64_t n = 1; n < 500000; n++) {
		uint64_t x = n;
		unsigned steps = 0;
		while (x != 1) {
			x = x & 1 ? 3 * x + 1 : x >> 1;
			steps++;
		}
		sum = sum * 31 + steps + n % (steps + 1);
	}
	return sum;
}

/* More than any cache holds: written, summed, walked at random. */
static uint64_t memory(void)
{
	size_t words = (96u << 20) / sizeof(uint64_t);
	uint64_t *at = malloc(words * sizeof(*at)), sum = 0;
	if (!at)
		return 0;
	for (unsigned round = 0; round < 3; round++) {
		memset(at, (int)round + 1, words * sizeof(*at));
		for (size_t i = 0; i < words; i++)
			sum += at[i];
		for (size_t i = 0; i < words; i += 8)
			at[i] ^= sum + i;
	}
	for (unsigned i = 0; i < 1500000; i++) {
		size_t k = draw() % words;
		sum += at[k];
		at[k] = sum;
	}
	free(at);
	return sum;
}

static uint64_t processes(void)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < 300; i++) {
		int status = 0;
		pid_t child = fork();
		if (child == 0) {
			execl("/init", "init", "nothing", (char *)NULL);
			_exit(99);
		}
		waitpid(child, &status, 0);
		sum += (uint64_t)WEXITSTATUS(status);
	}
	return sum;
}

/* SHA-256, FIPS 180-4 section 6.2. */
static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, unsigned n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *block)
{
	uint32_t w[64], v[8];
	for (unsigned i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
	for (unsigned i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(v, h, sizeof(v));
	for (unsigned i = 0; i < 64; i++) {
		uint32_t t = v[7] + (rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha_k[i] + w[i];
		uint32_t u = (rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof(*v));
		v[4] += t;
		v[0] = t + u;
	}
	for (unsigned i = 0; i < 8; i++)
		h[i] += v[i];
}

static uint64_t sha256(void)
{
	static uint8_t data[1u << 20];
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)draw();
	for (unsigned round = 0; round < 12; round++)
		for (size_t i = 0; i < sizeof(data); i += 64)
			sha_block(h, data + i);
	return (uint64_t)h[0] << 32 | h[1];
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What programs do all day: text made, sorted, searched; small pieces of memory; files; a pipe to another process. */
static uint64_t mix_text(void)
{
	enum { LINES = 20000 };
	char **lines = calloc(LINES, sizeof(*lines));
	uint64_t sum = 0;
	regex_t expression;
	if (!lines || regcomp(&expression, "[a-f]+([0-9])-(one|two|three) .*[02468]$", REG_EXTENDED))
		return 0;
	for (unsigned i = 0; i < LINES; i++) {
		char line[128];
		static const char *const words[] = {"one", "two", "three", "four"};
		snprintf(line, sizeof(line), "%x%u-%s %.6f %u", draw() % 4096, draw() % 10, words[draw() % 4], (double)draw() / 7.0, draw());
		lines[i] = strdup(line);
	}
	qsort(lines, LINES, sizeof(*lines), by_text);
	for (unsigned i = 0; i < LINES; i++) {
		regmatch_t match[3];
		if (i % 4 == 0 && !regexec(&expression, lines[i], 3, match, 0))
			sum += (uint64_t)match[1].rm_so + i;
		sum = sum * 131 + strlen(lines[i]) + strtoul(lines[i], NULL, 16);
		free(lines[i]);
	}
	regfree(&expression);
	free(lines);
	return sum;
}

static uint64_t mix_files(void)
{
	static char buffer[16384];
	uint64_t sum = 0;
	for (unsigned i = 0; i < 200; i++) {
		char name[32];
		struct stat st;
		snprintf(name, sizeof(name), "/tmp/file%u", i % 20);
		int fd = open(name, O_RDWR | O_CREAT | O_APPEND, 0600);
		memset(buffer, (int)i, sizeof(buffer));
		for (unsigned k = 0; k < 8; k++)
			sum += (uint64_t)write(fd, buffer, 2048 + 64 * k);
		lseek(fd, 0, SEEK_SET);
		for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;)
			for (ssize_t k = 0; k < n; k += 512)
				sum = sum * 7 + (uint8_t)buffer[k];
		sum += fstat(fd, &st) ? 0 : (uint64_t)st.st_size;
		close(fd);
		if (i % 20 == 19)
			unlink(name);
	}
	return sum;
}

static uint64_t mix_pipe(void)
{
	int there[2], back[2];
	uint64_t sum = 0;
	if (pipe(there) || pipe(back))
		return 0;
	pid_t child = fork();
	if (child == 0) {
		uint32_t value;
		close(there[1]);
		while (read(there[0], &value, sizeof(value)) == sizeof(value)) {
			value = value * 2654435761u + 1;
			if (write(back[1], &value, sizeof(value)) != sizeof(value))
				break;
		}
		_exit(0);
	}
	uint32_t value = 1;
	for (unsigned i = 0; i < 8000; i++) {
		if (write(there[1], &value, sizeof(value)) != sizeof(value) || read(back[0], &value, sizeof(value)) != sizeof(value))
			break;
		sum += value;
	}
	close(there[1]);
	close(there[0]);
	close(back[0]);
	close(back[1]);
	waitpid(child, NULL, 0);
	return sum;
}

static uint64_t mix(void)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < 2; i++)
		sum = sum * 3 + mix_text() + mix_files() + mix_pipe();
	return sum;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		uint64_t (*run)(void);
	} workloads[] = {{"syscalls", syscalls}, {"integer", integer}, {"memory", memory}, {"fork_exec", processes}, {"sha256", sha256}, {"mix", mix}};
	if (argc > 1)
		return 7; /* what fork_exec starts */
	setvbuf(stdout, NULL, _IONBF, 0);
	mkdir("/tmp", 0700);
	mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
	for (unsigned i = 0; i < sizeof(workloads) / sizeof(*workloads); i++) {
		seed = i + 1;
		printf("mark begin %s\n", workloads[i].name);
		tcdrain(1);
		uint64_t sum = workloads[i].run();
		printf("mark end %s %016llx\n", workloads[i].name, (unsigned long long)sum);
		tcdrain(1);
	}
	printf("mark over\n");
	tcdrain(1);
	if (getpid() == 1)
		reboot(RB_POWER_OFF);
	return 0;
}
