#include "vmm/engine/walk.h"

#include "vmm/engine/model.h"

#define PTE_P       1ull
#define PTE_U       4ull
#define PTE_PS      0x80ull
#define PTE_ADDRESS (((1ull << FT_MODEL_PHYSICAL_BITS) - 1) & ~0xfffull)

static bool canonical(uint64_t va)
{
	return va + (1ull << 47) < 1ull << 48;
}

bool ft_walk(const struct ft_memory *ram, uint64_t cr3, uint64_t va, bool user, uint64_t *gpa)
{
	uint64_t table = cr3 & PTE_ADDRESS, entry, needed = user ? PTE_P | PTE_U : PTE_P;
	if (!canonical(va))
		return false;
	for (int level = 3;; level--) {
		uint64_t at = table + ((va >> (12 + 9 * level)) & 511) * 8;
		if (!ft_memory_read(ram, ft_gpa_make(at), &entry, 8) || (entry & needed) != needed)
			return false;
		if (level == 0 || (level < 3 && (entry & PTE_PS))) {
			uint64_t within = (1ull << (12 + 9 * level)) - 1;
			*gpa = (entry & PTE_ADDRESS & ~within) | (va & within);
			return true;
		}
		table = entry & PTE_ADDRESS;
	}
}

bool ft_walk_isolated(const struct ft_memory *ram, uint64_t cr3)
{
	uint64_t kernel[256], user[256], at = cr3 & PTE_ADDRESS & ~FT_WALK_PAIR;
	unsigned common = 0;
	if (!ft_memory_read(ram, ft_gpa_make(at), kernel, sizeof(kernel)) ||
	    !ft_memory_read(ram, ft_gpa_make(at + FT_PAGE_SIZE), user, sizeof(user)))
		return false;
	/* User memory, the lower half: the same tables below. Two processes have none in common, and free pages no entries. */
	for (unsigned i = 0; i < 256; i++) {
		if (!(user[i] & PTE_P))
			continue;
		if (!(kernel[i] & PTE_P) || (kernel[i] ^ user[i]) & PTE_ADDRESS)
			return false;
		common++;
	}
	return common;
}

size_t ft_walk_read(const struct ft_memory *ram, uint64_t cr3, uint64_t va, bool user, void *to, size_t length)
{
	size_t done = 0;
	while (done < length) {
		uint64_t gpa, part = FT_PAGE_SIZE - ((va + done) & (FT_PAGE_SIZE - 1));
		if (part > length - done)
			part = length - done;
		if (!ft_walk(ram, cr3, va + done, user, &gpa) || !ft_memory_read(ram, ft_gpa_make(gpa), (uint8_t *)to + done, part))
			break;
		done += part;
	}
	return done;
}
