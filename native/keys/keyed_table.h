// Tables of rows that are asked by the hashes of keys, and what reads them. docs/format.md describes all of
// it, as codec "keyed".
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "keys/changed_keys.h"
#include "keys/codewords.h"
#include "keys/read_strings.h"

namespace saec {

// A part after the first of its class.
struct KeyedPart {
  Codewords code;
  size_t first_value;
  uint32_t axes, first_axis, string;
};

struct KeyedClass {
  uint32_t first_root, axes;  // of its first part
  size_t first_value;
  std::vector<KeyedPart> parts;
};

struct KeyedTable {
  size_t dim = 0;
  std::vector<float> axes;  // (rank + 1) * dim, the default row last
  std::vector<float> values;
  Codewords root;
  std::vector<uint16_t> class_of_root;
  std::vector<KeyedClass> classes;

  size_t rank() const { return axes.size() / dim - 1; }
  const float* default_row() const { return axes.data() + axes.size() - dim; }
};

struct KeyedRequest {
  const uint64_t* hashes;
  size_t keys;
  const int64_t* offsets;  // of bags, ascending from 0 to at most `keys`
  size_t bags;
  const float* weights;  // of keys, or null
  bool mean;
  float* rows;  // OUT (bags, dim)

  size_t start(size_t bag) const { return bag < bags ? static_cast<size_t>(offsets[bag]) : keys; }
};

// A table and its function. Of a base with patches, each link but the base has keys that changed.
struct KeyedLink {
  const KeyedTable* table;
  const StaticFunction* function;
};

class JoinedLinks;

// A base and its patches, the newest first, and what reads the strings of their functions. `changed` says in which
// patch a key is; without patches, both are null. All have the axes of the base.
struct KeyedSource {
  const JoinedLinks* base;
  const JoinedLinks* patches;
  StringReaders read;
  const ChangedKeys* changed;
};

// What a thread keeps during a call: memory for batches, and rows of keys that come up often.
struct KeyedWork {
  virtual ~KeyedWork() = default;
};

// By one instruction set; all give the same numbers. Of one KeyedWork, one function may run at a time.
struct KeyedKernels {
  // keys: about how many will be asked for. `source` must outlive the result.
  std::unique_ptr<KeyedWork> (*begin)(const KeyedSource& source, size_t keys);
  // classes: OUT of each key in the base, -1 if it is unknown there.
  void (*classes)(KeyedWork& work, const uint64_t* hashes, size_t count, int32_t* classes);
  // rows: OUT (count, dim).
  void (*rows)(KeyedWork& work, const uint64_t* hashes, size_t count, float* rows);
  // Bags [first, last).
  void (*pool)(KeyedWork& work, const KeyedRequest& request, size_t first, size_t last);
};

extern const KeyedKernels kScalarKeyed;
extern const KeyedKernels kAvx2Keyed, kAvx512Keyed;  // null pointers where not compiled for this processor

// For StringReaders of the same name, which must have been found.
const KeyedKernels& choose_keyed(const char* name);

}  // namespace saec
