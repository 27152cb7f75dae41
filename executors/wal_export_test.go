package executors

// For the tests in executors_test, which need local and so cannot live here.
var (
	ScanWAL      = scanWAL
	ParseWaldump = parseWaldump
	ParseControl = parseControl
)
