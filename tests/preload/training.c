/* SPDX-License-Identifier: Apache-2.0 */
/* A trainer that knows of MPI alone: a perceptron of several layers learns digits by SGD with momentum, on every rank a part of
   each batch, and the gradient is summed tensor by tensor. Of preload.sh and bench/unmodified, with and without tacit-run. */
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIXELS = 64, CLASSES = 10, IMAGES = 2048, MOST_LAYERS = 32 };

typedef struct tensor {
    size_t count;
    float *values, *gradient, *velocity;
} tensor_t;

/* A weight is inputs x outputs; a row is what one input adds. */
typedef struct layer {
    int      inputs, outputs;
    tensor_t weight, bias;
    float   *activations, *deltas; /* a row of outputs for each image of a batch */
} layer_t;

static struct {
    const char *data;
    int         width, hidden, batch, steps, every, seed;
    float       rate, momentum;
} options = {"examples/data/digits.csv", 512, 5, 8, 200, 50, 1, 0.05f, 0.9f};

static int     rank, ranks, images, tests;
static float   pixels[IMAGES][PIXELS];
static int     classes[IMAGES];
static layer_t layers[MOST_LAYERS];
static int     layer_count;

__attribute__((noreturn)) static void die(const char *why, const char *what)
{
    fprintf(stderr, "training: %s%s\n", why, what);
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

/* ---- Random numbers, the same on every machine (SplitMix64) ---- */

static uint64_t next(uint64_t *state)
{
    uint64_t mixed = *state += 0x9e3779b97f4a7c15u;

    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    return mixed ^ mixed >> 31;
}

static double uniform(uint64_t *state)
{
    return ((double)(next(state) >> 11) + 0.5) * 0x1p-53;
}

static double normal(uint64_t *state)
{
    const double radius = sqrt(-2.0 * log(uniform(state)));

    return radius * cos(6.283185307179586 * uniform(state));
}

/* ---- Data ---- */

/* Lines of 64 numbers from 0 to 16 and the digit. In an order that is the same for all seeds: the last fifth is a test. */
static void load(void)
{
    FILE    *file = fopen(options.data, "r");
    uint64_t state = 1;

    if (file == NULL) {
        die("there is no file ", options.data);
    }
    for (int place = 0, pixel; images < IMAGES && fscanf(file, "%d%*[,\n]", &pixel) == 1; place = (place + 1) % (PIXELS + 1)) {
        if (place < PIXELS) {
            pixels[images][place] = (float)pixel / 8.0f - 1.0f;
        } else {
            classes[images++] = pixel % CLASSES;
        }
    }
    fclose(file);
    if (images < 5 * ranks) {
        die("these are no lines of 64 pixels and a digit: ", options.data);
    }
    for (int i = images - 1; i > 0; i--) {
        const int other = (int)(next(&state) % (uint64_t)(i + 1)), class = classes[i];
        float     image[PIXELS];

        memcpy(image, pixels[i], sizeof image);
        memcpy(pixels[i], pixels[other], sizeof image);
        memcpy(pixels[other], image, sizeof image);
        classes[i] = classes[other];
        classes[other] = class;
    }
    tests = images / 5;
}

/* ---- Model ---- */

static float *zeros(size_t count)
{
    float *values = calloc(count, sizeof *values);

    if (values == NULL) {
        die("there is not enough memory", "");
    }
    return values;
}

static tensor_t make_tensor(size_t count, double deviation, uint64_t *state)
{
    tensor_t tensor = {count, zeros(count), zeros(count), zeros(count)};

    for (size_t i = 0; i < count && deviation > 0.0; i++) {
        tensor.values[i] = (float)(deviation * normal(state));
    }
    return tensor;
}

static void make_model(void)
{
    uint64_t state = (uint64_t)options.seed << 32;

    layer_count = options.hidden + 1;
    for (int i = 0; i < layer_count; i++) {
        const int    inputs = i > 0 ? options.width : PIXELS, outputs = i < options.hidden ? options.width : CLASSES;
        const size_t room = (size_t)outputs * (size_t)options.batch;

        layers[i] = (layer_t){inputs, outputs, .activations = zeros(room), .deltas = zeros(room)};
        layers[i].weight = make_tensor((size_t)inputs * (size_t)outputs, sqrt(2.0 / inputs), &state);
        layers[i].bias = make_tensor((size_t)outputs, 0.0, &state);
    }
}

static void forward(const layer_t *layer, const float *in, int count, int last)
{
    const int outputs = layer->outputs;

    for (int n = 0; n < count; n++) {
        memcpy(&layer->activations[n * outputs], layer->bias.values, (size_t)outputs * sizeof(float));
    }
    for (int i = 0; i < layer->inputs; i++) {
        const float *restrict row = &layer->weight.values[(size_t)i * (size_t)outputs];

        for (int n = 0; n < count; n++) {
            const float factor = in[n * layer->inputs + i];
            float *restrict out = &layer->activations[n * outputs];

            for (int j = 0; factor != 0.0f && j < outputs; j++) {
                out[j] += factor * row[j];
            }
        }
    }
    for (int i = 0; !last && i < count * outputs; i++) {
        layer->activations[i] = layer->activations[i] > 0.0f ? layer->activations[i] : 0.0f;
    }
}

/* From the layer's deltas to its gradient, and, unless NULL, the deltas of what it was given. */
static void backward(const layer_t *layer, const float *in, int count, float *in_deltas)
{
    const int outputs = layer->outputs;

    memset(layer->bias.gradient, 0, layer->bias.count * sizeof(float));
    for (int i = 0; i < count * outputs; i++) {
        layer->bias.gradient[i % outputs] += layer->deltas[i];
    }
    for (int i = 0; i < layer->inputs; i++) {
        const float *restrict row = &layer->weight.values[(size_t)i * (size_t)outputs];
        float *restrict gradient = &layer->weight.gradient[(size_t)i * (size_t)outputs];

        memset(gradient, 0, (size_t)outputs * sizeof *gradient);
        for (int n = 0; n < count; n++) {
            const float *restrict deltas = &layer->deltas[n * outputs];
            const float factor = in[n * layer->inputs + i];
            float       sum = 0.0f;

            for (int j = 0; factor != 0.0f && j < outputs; j++) {
                gradient[j] += factor * deltas[j];
                sum += row[j] * deltas[j];
            }
            if (in_deltas != NULL) { /* of max(0, x), whose derivative is 0 where it is */
                in_deltas[n * layer->inputs + i] = sum;
            }
        }
    }
}

/* The loss of `count` images, and how many of them are right. With the gradient, `scale` times. */
static float try_images(const float *in, const int *answers, int count, float scale, int *right)
{
    const layer_t *top = &layers[layer_count - 1];
    double         loss = 0.0;

    for (int i = 0; i < layer_count; i++) {
        forward(&layers[i], i > 0 ? layers[i - 1].activations : in, count, i == layer_count - 1);
    }
    for (int n = 0; n < count; n++) {
        const float *scores = &top->activations[n * CLASSES];
        int          best = 0;
        double       sum = 0.0;

        for (int j = 1; j < CLASSES; j++) {
            best = scores[j] > scores[best] ? j : best;
        }
        for (int j = 0; j < CLASSES; j++) {
            sum += exp((double)(scores[j] - scores[best]));
        }
        for (int j = 0; j < CLASSES; j++) {
            const double share = exp((double)(scores[j] - scores[best])) / sum;

            top->deltas[n * CLASSES + j] = scale * (float)(share - (j == answers[n] ? 1.0 : 0.0));
        }
        loss += log(sum) - (double)(scores[answers[n]] - scores[best]);
        *right += best == answers[n];
    }
    for (int i = layer_count - 1; scale != 0.0f && i >= 0; i--) {
        backward(&layers[i], i > 0 ? layers[i - 1].activations : in, count, i > 0 ? layers[i - 1].deltas : NULL);
    }
    return (float)loss;
}

/* ---- Training ---- */

static void reduce(float *values, size_t count)
{
    MPI_Allreduce(MPI_IN_PLACE, values, (int)count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static void update(const tensor_t *tensor, float rate)
{
    for (size_t i = 0; i < tensor->count; i++) {
        tensor->velocity[i] = options.momentum * tensor->velocity[i] + tensor->gradient[i];
        tensor->values[i] -= rate * tensor->velocity[i];
    }
}

/* The loss of the step's images on all ranks. The rate falls to 0. */
static float train(int step, uint64_t *state)
{
    const float scale = 1.0f / (float)(ranks * options.batch), rate = options.rate * (1.0f - (float)step / (float)options.steps);
    float       in[options.batch][PIXELS], loss, sum;
    int         answers[options.batch], right = 0;

    for (int n = 0; n < options.batch; n++) {
        const uint64_t image = next(state) % (uint64_t)(images - tests);

        memcpy(in[n], pixels[image], sizeof in[n]);
        answers[n] = classes[image];
    }
    loss = scale * try_images(in[0], answers, options.batch, scale, &right);
    for (int i = layer_count - 1; i >= 0; i--) {
        reduce(layers[i].weight.gradient, layers[i].weight.count);
        reduce(layers[i].bias.gradient, layers[i].bias.count);
    }
    MPI_Allreduce(&loss, &sum, 1, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    for (int i = 0; i < layer_count; i++) {
        update(&layers[i].weight, rate);
        update(&layers[i].bias, rate);
    }
    return sum;
}

/* The mean loss of the test's images, and the part of them that is right; each rank tries its share. */
static void evaluate(float result_out[2])
{
    const int first = images - tests + tests * rank / ranks, end = images - tests + tests * (rank + 1) / ranks;
    int       right = 0;
    float     loss = 0.0f;

    for (int i = first; i < end; i += options.batch) {
        loss += try_images(pixels[i], &classes[i], end - i < options.batch ? end - i : options.batch, 0.0f, &right);
    }
    result_out[0] = loss / (float)tests;
    result_out[1] = (float)right / (float)tests;
    reduce(result_out, 2);
}

/* Whether all ranks have the same model, bit for bit. */
static int are_equal(void)
{
    uint32_t hashes[2], both[2], hash = 2166136261u;

    for (int i = 0; i < layer_count; i++) {
        for (size_t j = 0; j < layers[i].weight.count; j++) {
            uint32_t bits;

            memcpy(&bits, &layers[i].weight.values[j], sizeof bits);
            hash = (hash ^ bits) * 16777619u;
        }
    }
    hashes[0] = hash;
    hashes[1] = ~hash;
    MPI_Allreduce(hashes, both, 2, MPI_UINT32_T, MPI_MAX, MPI_COMM_WORLD);
    return both[0] == ~both[1];
}

/* ---- Program ---- */

static const char help[] = "usage: mpirun -n RANKS training [OPTION VALUE]...\n\n"
                           "  --data FILE       lines of 64 pixels and the digit (examples/data/digits.csv)\n"
                           "  --width N         of the hidden layers (512)\n"
                           "  --hidden N        how many, 1 to 31 (5)\n"
                           "  --batch N         images of a rank in a step (8)\n"
                           "  --steps N         (200)\n"
                           "  --every N         steps between evaluations (50)\n"
                           "  --rate X          of learning; falls to 0 (0.05)\n"
                           "  --momentum X      (0.9)\n"
                           "  --seed N          of the first weights and the order of the images (1)\n";

static void parse(int argc, char **argv)
{
    const struct {
        const char *name;
        int        *number, least, most;
        float      *real;
    } known[] = {{"--width", &options.width, 1, 16384, NULL},   {"--hidden", &options.hidden, 1, MOST_LAYERS - 1, NULL},
                 {"--batch", &options.batch, 1, 1024, NULL},    {"--steps", &options.steps, 1, 1 << 30, NULL},
                 {"--every", &options.every, 1, 1 << 30, NULL}, {"--seed", &options.seed, 0, 1 << 30, NULL},
                 {"--rate", NULL, 0, 0, &options.rate},         {"--momentum", NULL, 0, 0, &options.momentum}};

    for (int i = 1; i < argc; i += 2) {
        size_t at = 0;
        char  *end = "";

        while (at < sizeof known / sizeof *known && strcmp(argv[i], known[at].name) != 0) {
            at++;
        }
        if (i + 1 < argc && strcmp(argv[i], "--data") == 0) {
            options.data = argv[i + 1];
        } else if (i + 1 == argc || at == sizeof known / sizeof *known) {
            die("no option with a value (see --help): ", argv[i]);
        } else if (known[at].real != NULL) {
            *known[at].real = strtof(argv[i + 1], &end);
        } else {
            const long number = strtol(argv[i + 1], &end, 10);

            *known[at].number = (int)number;
            end = number < known[at].least || number > known[at].most ? "bad" : end;
        }
        if (*end != '\0') {
            die("not possible here: ", argv[i + 1]);
        }
    }
}

int main(int argc, char **argv)
{
    float    loss = 0.0f, test[2];
    uint64_t state;
    double   start;
    int      equal;

    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs(help, stdout);
        return 0;
    }
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    parse(argc, argv);
    load();
    make_model();
    state = ((uint64_t)options.seed << 16) + (uint64_t)rank + 1;
    MPI_Barrier(MPI_COMM_WORLD);
    start = MPI_Wtime();
    for (int step = 0; step < options.steps; step++) {
        loss = train(step, &state);
        if ((step + 1) % options.every == 0 || step + 1 == options.steps) {
            evaluate(test);
            if (rank == 0) {
                printf("step %d, %.3f s: loss %.5f, of test %.5f, right %.4f\n", step + 1, MPI_Wtime() - start, (double)loss,
                       (double)test[0], (double)test[1]);
            }
        }
    }
    equal = are_equal();
    if (rank == 0) {
        printf("%s\n", equal ? "models are equal" : "models differ");
    }
    MPI_Finalize();
    return !equal;
}
