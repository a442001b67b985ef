package swift

// Dataset loaders: what an author fills in. How rows cross the contract is not known here.

// A Loader reads sources of a form that swift does not know, through [OpenFile] or [Send]. For rows that swift can read, a
// [Preprocessor] is enough.
type Loader struct {
	Name    string   // what the user writes before "::" in a dataset string: lower case, digits, "_" and "-"
	Summary string   // one line
	Endings []string // of file names that it reads (".parquet"), for choosing it without being named
	// Open opens a source from its start, or from where a batch's cursor says. A setting that it does not read is refused.
	Open func(*Source) (Reader, error)
}

// A Source is what the user named as a dataset.
type Source struct {
	Location string  // an absolute path, or whatever else stood in the dataset string
	Subset   *string // nil without one
	Settings *Settings
	Cursor   *string // of the batch after which reading goes on; nil at the start
}

// A Reader is a source that is being read. The same source gives the same rows. One that knows its number of rows without
// reading them is [Counted] too.
type Reader interface {
	// Next gives the next rows of the source, at most limit of them (1 or more). An error is for a source that cannot be
	// read any further; one bad row is a [Drop].
	Next(limit int) (Batch, error)
}

// Counted is a [Reader] that knows how many rows there are in all, those before its cursor included.
type Counted interface{ Length() uint64 }

// A Batch is what a [Reader] read.
type Batch struct {
	Rows   []Rows // one for each row of the source, in its order
	Cursor string // where to go on: opening with it gives the rows after this batch
	Last   bool   // there are no more rows after these
}

var loaders []Loader

// AddLoader makes a dataset loader known. Call it in an init function.
func AddLoader(l Loader) {
	if l.Open == nil {
		panic("the loader `" + l.Name + "` needs Open")
	}
	loaders = append(loaders, l)
}

// open opens a source and refuses settings that were not read.
func (l *Loader) open(source *Source) (Reader, error) {
	reader, err := l.Open(source)
	if err != nil {
		return nil, err
	}
	if reader == nil {
		return nil, failure("Open gave neither a reader nor an error")
	}
	return reader, source.Settings.Refused()
}

// failure is an error without a package of errors.
type failure string

func (f failure) Error() string { return string(f) }
