/* A test guest's beginning, its interrupt entries, and the way into code under test and back. See guest.h. */
#define SETUP 0x1f1

	.section .header, "a"
header:
	.org header + 0x1f1
	.byte 1                  /* one sector of set-up code follows: none of it runs */
	.org header + 0x1fe
	.word 0xaa55
	.byte 0xeb, 0x66         /* where the header ends */
	.ascii "HdrS"
	.word 0x020f             /* version of the boot protocol */
	.org header + 0x211
	.byte 1                  /* loaded high */
	.org header + 0x22c
	.long 0x37ffffff         /* highest end of an initramfs */
	.org header + 0x236
	.word 1                  /* has a 64-bit entry */
	.long 255                /* longest command line */
	.org header + 0x258
	.quad 0x100000           /* where it is loaded */
	.long image_span
	.org header + 1024

	.section .text.entry, "ax"
	hlt
	.org 0x200
	.globl entry64
entry64:
	lea stack_top(%rip), %rsp
	call guest_start
1:	hlt
	jmp 1b

	.section .bss
	.balign 16
	.skip 16384
stack_top:
	.globl stack_top

/* ---- Entries: 16 bytes each. What is pushed is struct trap. ---- */
	.text
	.balign 16
	.globl entries
entries:
	.set vector, 0
	.rept 256
	.balign 16
	.if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17
	.else
	push $0
	.endif
	push $vector
	jmp common
	.set vector, vector + 1
	.endr

common:
	push %r15
	push %r14
	push %r13
	push %r12
	push %r11
	push %r10
	push %r9
	push %r8
	push %rdi
	push %rsi
	push %rbp
	push $0
	push %rbx
	push %rdx
	push %rcx
	push %rax
	cld
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call guest_trap
	mov %rbx, %rsp
	pop %rax
	pop %rcx
	pop %rdx
	pop %rbx
	lea 8(%rsp), %rsp
	pop %rbp
	pop %rsi
	pop %rdi
	pop %r8
	pop %r9
	pop %r10
	pop %r11
	pop %r12
	pop %r13
	pop %r14
	pop %r15
	lea 16(%rsp), %rsp
	iretq

/* void guest_enter(const struct trap *at): loads all registers from there; guest_leave() returns from it. */
	.globl guest_enter
guest_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, saved_sp(%rip)
	mov %rdi, %rsp
	pop %rax
	pop %rcx
	pop %rdx
	pop %rbx
	lea 8(%rsp), %rsp
	pop %rbp
	pop %rsi
	pop %rdi
	pop %r8
	pop %r9
	pop %r10
	pop %r11
	pop %r12
	pop %r13
	pop %r14
	pop %r15
	lea 16(%rsp), %rsp
	.globl guest_iret
guest_iret:
	iretq

	.globl guest_leave
guest_leave:
	mov saved_sp(%rip), %rsp
	cli
	cld
	mov $0x10, %eax
	mov %eax, %ss
	mov %eax, %ds
	mov %eax, %es
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret

/* Where the call gate leads: what it found and was given, and back. */
	.globl gate_entry
gate_entry:
	mov %cs, %eax
	mov %ss, %ecx
	mov 8(%rsp), %rdx
	mov 16(%rsp), %r8
	mov 24(%rsp), %r15
	lretq

	.section .bss
	.balign 8
saved_sp:
	.skip 8
