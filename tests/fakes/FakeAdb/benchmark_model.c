/* FAKE: stands in for LiteRT's benchmark_model. It runs no model and tells a made-up time: one microsecond for every 8
   bytes of the file. It prints what the real one prints (tensorflow/lite/tools/benchmark), and fails as FAKE_BENCHMARK
   says. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *given(int count, char **words, const char *name) {
    for (int i = 1; i < count; i++)
        if (!strncmp(words[i], name, strlen(name)) && words[i][strlen(name)] == '=') return words[i] + strlen(name) + 1;
    return "";
}

static long size_of(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return -1;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    fclose(file);
    return size;
}

static void check_input(int count, char **words) {
    char files[4096], shapes[4096];
    snprintf(files, sizeof files, "%s", given(count, words, "--input_layer_value_files"));
    snprintf(shapes, sizeof shapes, "%s", given(count, words, "--input_layer_shape"));
    char *rest_of_files, *rest_of_shapes, *file, *shape;
    file = strtok_r(files, ",", &rest_of_files);
    shape = strtok_r(shapes, ":", &rest_of_shapes);
    for (; file && shape; file = strtok_r(NULL, ",", &rest_of_files), shape = strtok_r(NULL, ":", &rest_of_shapes)) {
        long bytes = 4;
        char *rest;
        for (char *size = strtok_r(shape, ",", &rest); size; size = strtok_r(NULL, ",", &rest)) bytes *= atol(size);
        const char *path = strchr(file, ':') + 1;
        if (size_of(path) != bytes) {
            fprintf(stderr, "FATAL: The size of %s is %ld bytes. It should be %ld bytes.\n", path, size_of(path), bytes);
            abort();
        }
    }
}

static void statistics(const char *prefix, const char *mode, int count, double mean) {
    if (!strcmp(mode, "zero")) mean = 0;
    if (!strcmp(mode, "same") || !strcmp(mode, "zero") || count == 1) {
        printf("%scount=%d curr=%ld%s\n\n", prefix, count, (long)mean, count > 1 ? "(all same)" : "");
        return;
    }
    printf("%scount=%d first=%ld curr=%ld min=%ld max=%ld avg=%g std=%d", prefix, count, (long)mean + 9, (long)mean,
           (long)mean - 1, (long)mean + 9, mean, 3);
    if (strcmp(mode, "old")) printf(" p5=%ld median=%ld p95=%ld", (long)mean - 1, (long)mean, (long)mean + 9);
    printf("\n\n");
}

int main(int count, char **words) {
    const char *mode = getenv("FAKE_BENCHMARK") ? getenv("FAKE_BENCHMARK") : "";
    const char *graph = given(count, words, "--graph"), *prefix = strcmp(mode, "old") ? "INFO: " : "";
    int runs = atoi(given(count, words, "--num_runs")), warm_up = atoi(given(count, words, "--warmup_runs"));
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(mode, "garbage")) {
        puts("\x7f%!\\ all is well\ncount=many avg=nice");
        return 0;
    }
    printf("%sSTARTING!\n%sLog parameter values verbosely: [0]\n", prefix, prefix);
    printf("%sMin num runs: [%d]\n%sGraph: [%s]\n", prefix, runs, prefix, graph);
    if (!strcmp(mode, "old"))
        printf("Unconsumed cmdline flags: --input_layer_value_files=%s\n", given(count, words, "--input_layer_value_files"));
    else
        check_input(count, words);
    long size = size_of(graph);
    if (size < 0) {
        fprintf(stderr, "ERROR: Could not open '%s'.\nERROR: Failed to load model %s\nERROR: Benchmarking failed.\n", graph,
                graph);
        return 1;
    }
    printf("%sLoaded model %s\n", prefix, graph);
    if (!strcmp(mode, "unsupported")) {
        fprintf(stderr, "ERROR: Encountered unresolved custom op: FakeOp.\nERROR: Node number 3 (FakeOp) failed to prepare.\n"
                        "ERROR: Failed to allocate tensors!\nERROR: Benchmarking failed.\n");
        return 1;
    }
    if (!strcmp(mode, "memory")) {
        fprintf(stderr, "terminating with uncaught exception of type std::bad_alloc: std::bad_alloc\n");
        abort();
    }
    if (!strcmp(mode, "crash")) raise(SIGSEGV);
    if (!strcmp(mode, "killed")) raise(SIGKILL);
    if (!strcmp(mode, "hang")) sleep(600);
    printf("%sExplicitly applied XNNPACK delegate, and the model graph will be completely executed by the delegate.\n", prefix);
    printf("%sThe input model file size (MB): %g\n%sInitialized session in 1.25ms.\n", prefix, size / 1e6, prefix);
    double mean = size / 8.0;
    printf("%sRunning benchmark for at least %d iterations and at least %s seconds but terminate if exceeding %s seconds.\n",
           prefix, warm_up, given(count, words, "--warmup_min_secs"), given(count, words, "--max_secs"));
    statistics(prefix, "", warm_up, mean * 3);
    printf("%sRunning benchmark for at least %d iterations and at least %s seconds but terminate if exceeding %s seconds.\n",
           prefix, runs, given(count, words, "--min_secs"), given(count, words, "--max_secs"));
    if (!strcmp(mode, "half")) return 0;
    statistics(prefix, mode, !strcmp(mode, "short") ? 1 : runs, mean);
    if (!strcmp(mode, "zero")) mean = 0;
    if (!strcmp(mode, "same") || !strcmp(mode, "short") || runs == 1) mean = (long)mean;
    if (!strcmp(mode, "disagree")) mean *= 2;
    if (!strcmp(mode, "old")) {
        printf("Average inference timings in us: Warmup: %g, Init: 1250, no stats: %g\n", mean * 3, mean);
        return 0;
    }
    printf("INFO: Inference timings in us: Init: 1250, First inference: %ld, Warmup (avg): %g, Inference (avg): %g\n",
           (long)(mean * 3), mean * 3, mean);
    printf("INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.5\n");
    if (!strcmp(given(count, words, "--report_peak_memory_footprint"), "true"))
        printf("INFO: Overall peak memory footprint (MB) via periodic monitoring: 12.5\n");
    return 0;
}
