/* The C side of benchmarks/shared_memory.py and of the tests: reads maps whose content says whether a copy is torn.
 *
 *     shared_memory_reader torn NAME READS      reads, and counts maps that are not of one writing
 *     shared_memory_reader lookup NAME RAYS     times lookups in the newest map
 *     shared_memory_reader layout               prints the offsets of the fields in the shared memory
 *
 * The writer gives the map n the stamp n, the density n mod 2^20 in every pixel, and its digits as frame_id.
 */
#include <stdio.h>
#include <time.h>

#include "sal360.h"

static double seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static int is_torn(const sal360_map *map) {
    float expected = (float)(map->number % 1048576);
    char digits[32];
    uint32_t row, column;
    snprintf(digits, sizeof digits, "%lu", (unsigned long)map->number);
    if (map->stamp_ns != (int64_t)map->number || strcmp(map->frame_id, digits) != 0) return 1;
    for (row = 0; row < map->height; row++) {
        const float *values = sal360_row(map, row);
        for (column = 0; column < map->width; column++) {
            if (values[column] != expected) return 1;
        }
    }
    return 0;
}

static int read_many(const char *name, long reads) {
    sal360_ring ring;
    sal360_map map = SAL360_NO_MAP_YET;
    long done = 0, torn = 0, back = 0, busy = 0;
    uint64_t last = 0;
    double begin = seconds();
    int status = sal360_open(&ring, name);
    while (status >= 0 && done < reads) {
        map.writer = 0; /* so that the newest map is copied each time, even if it was read before */
        status = sal360_read(&ring, &map);
        if (status == SAL360_NO_MAP || status == SAL360_BUSY) {
            busy += status == SAL360_BUSY;
            status = SAL360_OK;
            continue;
        }
        if (status != SAL360_OK) break;
        done++;
        torn += is_torn(&map);
        back += map.number < last;
        last = map.number;
    }
    printf("reads %ld torn %ld back %ld busy %ld seconds %.2f\n", done, torn, back, busy, seconds() - begin);
    if (status < 0) fprintf(stderr, "%s\n", sal360_strerror(status));
    sal360_map_free(&map);
    sal360_close(&ring);
    return status < 0;
}

/* A pseudo-random number from -1 to 1 (xorshift). */
static float next(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return (float)*state / 2147483648.0f - 1.0f;
}

static int time_lookups(const char *name, long rays) {
    sal360_ring ring;
    sal360_map map = SAL360_NO_MAP_YET;
    uint32_t state = 2463534242u;
    float x, y, z;
    double begin, drawn, sum = 0;
    long index;
    int status = sal360_open(&ring, name);
    if (status >= 0) status = sal360_read(&ring, &map);
    if (status < 0) {
        fprintf(stderr, "%s\n", sal360_strerror(status));
        return 1;
    }
    begin = seconds();
    for (index = 0; index < rays; index++) {
        x = next(&state);
        y = next(&state);
        z = next(&state);
        sum += x + y + z;
    }
    drawn = seconds();
    for (index = 0; index < rays; index++) {
        x = next(&state);
        y = next(&state);
        z = next(&state);
        sum += sal360_lookup(&map, SAL360_OPENXR, x, y, z);
    }
    printf("lookup_ns %.1f map %ux%u sum %.3f\n", 1e9 * (seconds() - drawn - (drawn - begin)) / (double)rays,
           (unsigned)map.width, (unsigned)map.height, sum);
    sal360_map_free(&map);
    sal360_close(&ring);
    return 0;
}

#define RING(field) printf("ring " #field " %lu\n", (unsigned long)offsetof(sal360_ring_header_, field))
#define SLOT(field) printf("slot " #field " %lu\n", (unsigned long)offsetof(sal360_slot_header_, field))

static int print_layout(void) {
    RING(magic);
    RING(version);
    RING(byte_order);
    RING(header_bytes);
    RING(slots);
    RING(slot_bytes);
    RING(state);
    RING(newest);
    RING(writer);
    RING(process);
    RING(topic);
    SLOT(sequence);
    SLOT(number);
    SLOT(stamp_ns);
    SLOT(written_ns);
    SLOT(width);
    SLOT(height);
    SLOT(flags);
    SLOT(frame_axes);
    SLOT(full_scale);
    SLOT(yaw_offset_rad);
    SLOT(up);
    SLOT(orientation);
    SLOT(frame_id);
    printf("ring - %lu\nslot - %lu\n", (unsigned long)sizeof(sal360_ring_header_),
           (unsigned long)sizeof(sal360_slot_header_));
    return 0;
}

int main(int count, char **words) {
    if (count == 4 && strcmp(words[1], "torn") == 0) return read_many(words[2], atol(words[3]));
    if (count == 4 && strcmp(words[1], "lookup") == 0) return time_lookups(words[2], atol(words[3]));
    if (count == 2 && strcmp(words[1], "layout") == 0) return print_layout();
    fprintf(stderr, "usage: %s torn|lookup NAME COUNT, or layout\n", words[0]);
    return 2;
}
