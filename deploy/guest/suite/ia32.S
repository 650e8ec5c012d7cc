/* A 32-bit program: prints a line and ends. A kernel without IA-32 emulation refuses to start it. */
	.globl _start
	.code32
_start:
	movl $4, %eax
	movl $1, %ebx
	movl $text, %ecx
	movl $7, %edx
	int $0x80
	movl $1, %eax
	xorl %ebx, %ebx
	int $0x80
text:
	.ascii "32-bit\n"
	.section .note.GNU-stack,"",@progbits
