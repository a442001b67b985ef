package swift

// What preprocessors and loaders answer with, as it lies in memory.

type rowsLayout struct {
	what    uint32
	payload span
}

// sendRows is what became of source rows. `from` names the author's function.
func sendRows(list []Rows, from string) (span, error) {
	layouts := make([]rowsLayout, 0, len(list))
	for _, outcome := range list {
		switch outcome.what {
		case 0:
			return span{}, failure(from + " gave neither a row nor a reason for dropping it")
		case 2:
			layouts = append(layouts, rowsLayout{1, sendTexts(outcome.rows)})
		default:
			layouts = append(layouts, rowsLayout{uint32(outcome.what - 1), sendText(outcome.text)})
		}
	}
	return sendItems(layouts), nil
}
