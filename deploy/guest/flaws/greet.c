/*
 * PLANTED FLAW, for tests and the quickstart only: a stack overflow that runs the sender's code.
 *
 * Greets whoever is named. The name is percent-decoded into a buffer on the stack without a look at its size. Built without
 * stack protector, at a fixed address, with an executable stack, and with `jmp *%rsp` at a known place (see build): with
 * these the classic exploit works every time, whatever the kernel does to the stack's address.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The gadget that an exploit of a larger program would find by searching its text. */
__asm__(".section .gadget,\"ax\",@progbits\n\tjmp *%rsp\n\t.previous");

static int hex_digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static __attribute__((noinline)) size_t greet(const char *query)
{
	char name[256];
	size_t length = 0;
	while (*query && *query != '&') {
		if (*query == '%' && hex_digit(query[1]) >= 0 && hex_digit(query[2]) >= 0) {
			name[length++] = (char)(hex_digit(query[1]) << 4 | hex_digit(query[2]));
			query += 3;
		} else {
			name[length++] = *query == '+' ? ' ' : *query;
			query++;
		}
	}
	fwrite("Hello, ", 1, 7, stdout);
	fwrite(name, 1, length, stdout);
	fwrite("!\n", 1, 2, stdout);
	return length;
}

int main(void)
{
	const char *query = getenv("QUERY_STRING");
	const char *name = query ? strstr(query, "name=") : NULL;
	fputs("Content-Type: text/plain; charset=utf-8\r\n\r\n", stdout);
	greet(name ? name + 5 : "stranger");
	return 0;
}
