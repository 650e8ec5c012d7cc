/* A guest's file system, as the reader of a disk's past meets it: an ext4 of mke2fs' making with files, directories and a journal, in
 * which the input overwrites what it likes, above all superblock, groups, inodes, directories and the journal, through records of an
 * overlay. Held to be true: each of open, find and read ends, with success or with a sentence that says why not; and no more is read of
 * a file than its size says. */
#include <fcntl.h>
#include <sodium.h>
#include <sys/mman.h>
#include <unistd.h>

#include "disk/ext4.h"
#include "disk/record.h"
#include "input.h"

#define SIZE (4u << 20)
#define MOST ((1u << 20) - 7)

static int base_fd;

/* debugfs makes the files, one journalled transaction is left to the seeds: e2fsprogs are there wherever the product is built. */
static void make_base(void)
{
	char path[] = "/tmp/foretaste-fuzz-ext4-XXXXXX", command[600];
	base_fd = mkstemp(path);
	MUST(base_fd >= 0 && !ftruncate(base_fd, SIZE));
	snprintf(command, sizeof(command),
		 "mke2fs -q -F -t ext4 -b 1024 -J size=1 -N 64 -E hash_seed=00000000-0000-0000-0000-000000000001 -U "
		 "00000000-0000-0000-0000-000000000002 %s && printf 'mkdir /a\\nmkdir /a/b\\nwrite /etc/passwd /a/b/file\\nsymlink /a/link "
		 "/a/b/file\\nsymlink /loop /loop\\n' | debugfs -w -f - %s >/dev/null 2>&1",
		 path, path);
	MUST(!system(command));
	unlink(path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	MUST(sodium_init() >= 0);
	make_base();
	return 0;
}

/* An overlay with one record a patched block. */
static int make_overlay(struct input *in)
{
	struct ft_overlay_head head;
	struct ft_disk_record_key key;
	uint64_t sequence = 0, at = ft_segment_at(0);
	int fd = memfd_create("overlay", MFD_CLOEXEC);
	MUST(fd >= 0);
	ft_overlay_head_make(&head, SIZE, 0, 1, "fuzz");
	MUST(pwrite(fd, &head, sizeof(head), 0) == sizeof(head));
	ft_disk_record_key_take(&key, &head);
	struct ft_disk_record record = {.type = FT_DISK_RECORD_SEGMENT, .segment = 1, .sequence = ++sequence, .run = 1, .wall_ns = 2};
	ft_disk_record_seal(&key, &record, NULL, 0);
	MUST(pwrite(fd, &record, sizeof(record), (off_t)at) == sizeof(record));
	at += sizeof(record);
	while (in->left && sequence < 32) {
		uint8_t bytes[FT_DISK_RECORD_BLOCK];
		/* Most of what matters lies in front: 16 blocks of 4 KiB have superblock, groups, bitmaps, inodes, directories; then the journal. */
		uint64_t block = input8(in);
		block = block < 224 ? block % 48 : input16(in) % (SIZE / FT_DISK_RECORD_BLOCK);
		MUST(pread(base_fd, bytes, sizeof(bytes), (off_t)(block * sizeof(bytes))) == sizeof(bytes));
		for (unsigned patches = 1 + input8(in) % 8; patches && in->left; patches--) {
			unsigned place = input16(in) % FT_DISK_RECORD_BLOCK, length = 1 + input8(in) % 16;
			length = length < FT_DISK_RECORD_BLOCK - place ? length : FT_DISK_RECORD_BLOCK - place;
			input_copy(in, bytes + place, length);
		}
		struct iovec part = {.iov_base = bytes, .iov_len = sizeof(bytes)};
		sequence++;
		record = (struct ft_disk_record){
		    .type = FT_DISK_RECORD_DATA, .segment = 1, .sequence = sequence, .run = 1, .wall_ns = 2 + sequence, .block = block, .count = 1};
		ft_disk_record_seal(&key, &record, &part, 1);
		MUST(pwrite(fd, &record, sizeof(record), (off_t)at) == sizeof(record));
		MUST(pwrite(fd, bytes, sizeof(bytes), (off_t)(at + sizeof(record))) == sizeof(bytes));
		at += sizeof(record) + sizeof(bytes);
	}
	return fd;
}

struct taken {
	uint64_t bytes, most;
};

static int take(void *context, const void *bytes, size_t length)
{
	struct taken *t = context;
	uint8_t sum = 0;
	for (size_t i = 0; i < length; i++)
		sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
	t->bytes += length;
	MUST(t->bytes <= t->most);
	return sum == 0 && length > 1u << 30 ? -1 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const paths[] = {"/a/b/file", "/a/link", "/loop", "/lost+found", "/", "/a/none", "/a/b/../../a/b/file/x"};
	struct input in = {data, size};
	struct ft_history history;
	struct ft_view view;
	struct ft_error err = {0};
	int overlay = make_overlay(&in);
	MUST(!ft_history_open(&history, overlay, base_fd, &err));
	MUST(!ft_view_open(&view, &history, &err));
	ft_view_forward(&view, UINT64_MAX);
	struct ft_ext4 *fs = ft_ext4_open(&view, &err);
	MUST(fs || (err.code < 0 && *err.text));
	for (size_t i = 0; fs && i < sizeof(paths) / sizeof(*paths); i++) {
		struct ft_ext4_file file;
		err = (struct ft_error){0};
		int error = ft_ext4_find(fs, paths[i], &file, &err);
		MUST(!error || *err.text);
		if (error)
			continue;
		/* In no step that files are read in. */
		struct taken t = {.most = file.size < MOST ? file.size : MOST};
		err = (struct ft_error){0};
		error = ft_ext4_read(fs, &file, t.most, take, &t, &err);
		MUST(!error || *err.text);
	}
	ft_ext4_close(fs);
	ft_view_close(&view);
	ft_history_close(&history);
	close(overlay);
	return 0;
}
