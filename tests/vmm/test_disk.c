/* The overlay of a disk: what its hashes are over. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "pc.h"
#include "vmm/dev/disk.h"

#define DISK_BYTES (4ull * FT_DISK_LEAF * FT_DISK_BLOCK)
#define FAR        (2ull * FT_DISK_LEAF) /* a block of another leaf */

struct side {
	struct ft_memory memory;
	struct ft_disk disk;
};

static void open_side(struct side *s, int fd)
{
	struct ft_error err = {0};
	assert_int_equal(ft_memory_create(&s->memory, FT_RAM_MIN, &err), 0);
	assert_int_equal(ft_disk_open(&s->disk, fd, &err), 0);
}

static void close_side(struct side *s)
{
	ft_disk_close(&s->disk);
	ft_memory_destroy(&s->memory);
}

static void put(struct side *s, uint64_t block, uint64_t offset, uint8_t value)
{
	assert_int_equal(
	    ft_disk_write(&s->disk, &s->memory, block * FT_DISK_BLOCK + offset, &value, sizeof(value)), 0);
}

static uint64_t all(struct side *s)
{
	XXH3_state_t *hash = XXH3_createState();
	XXH3_128bits_reset(hash);
	ft_disk_hash(&s->disk, hash);
	uint64_t value = XXH3_128bits_digest(hash).low64;
	XXH3_freeState(hash);
	return value;
}

static uint64_t written(struct side *s)
{
	XXH3_state_t *hash = XXH3_createState();
	XXH3_128bits_reset(hash);
	ft_disk_hash_written(&s->disk, &s->memory, hash);
	uint64_t value = XXH3_128bits_digest(hash).low64;
	XXH3_freeState(hash);
	return value;
}

static void a_hash_since_the_mark_is_over_what_was_written_since(void **state)
{
	int fd = pc_disk_image(DISK_BYTES);
	struct side young, old;
	open_side(&young, fd);
	open_side(&old, fd);
	uint64_t nothing = written(&young);

	/* A life before the mark, in a leaf of its own and in one that is written again. */
	put(&old, 1, 0, 0xa1);
	put(&old, FAR, 7, 0xa2);
	assert_true(written(&old) != nothing); /* no mark yet: since the machine was made */
	assert_true(written(&old) == all(&old));
	ft_memory_mark(&old.memory);
	ft_memory_mark(&young.memory);
	assert_true(written(&old) == nothing);
	assert_true(all(&old) != nothing);

	/* The same writes since: the same, whatever was before. */
	put(&old, 2, 9, 0xb1);
	put(&young, 2, 9, 0xb1);
	assert_true(written(&old) == written(&young));
	assert_true(written(&old) != nothing);
	assert_true(all(&old) != all(&young));

	/* A block of the life before that is written again counts, with all of its bytes. */
	uint64_t before = written(&old);
	put(&old, FAR, 8, 0xb2);
	assert_true(written(&old) != before);
	put(&young, FAR, 8, 0xb2);
	assert_true(written(&old) != written(&young)); /* byte 7 */
	put(&young, FAR, 7, 0xa2);
	assert_true(written(&old) == written(&young));

	/* Which block it is counts, too, and every byte. */
	put(&old, 3, 0, 0xb3);
	put(&young, 4, 0, 0xb3);
	assert_true(written(&old) != written(&young));

	ft_memory_mark(&old.memory);
	assert_true(written(&old) == nothing);
	close_side(&young);
	close_side(&old);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_hash_since_the_mark_is_over_what_was_written_since),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
