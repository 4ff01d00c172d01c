# Drawn again by: gnuplot test-accuracy-against-finetune-rank.gnuplot
set encoding utf8
set terminal svg size 817,420 noenhanced font 'Helvetica,14' background 'white' rounded
set output 'test-accuracy-against-finetune-rank.svg'
set border 3 linecolor rgb '#555555'
set tics nomirror out textcolor rgb '#222222'
set grid linecolor rgb '#E3E3E3' linewidth 1 linetype 1
set errorbars 1.2
set title 'test accuracy against finetune.rank'
set xlabel 'finetune.rank (with finetune.alpha)'
set ylabel 'test accuracy'
set logscale x
set xrange [1.8403753012497504:8.693878900208464]
set yrange [0.82692:0.90308]
set format y '%.2f'
set format x '%g'
unset mxtics
set xtics (2, 4, 8)
set rmargin at screen 0.7222
set key at screen 0.7344,0.5 left center vertical maxcols 1 Left reverse samplen 2 spacing 1.25
$d2 << EOD
2 0.895 2 2 0.891 0.899
8 0.895 8 8 0.891 0.899
EOD
$r2 << EOD
2 0.895 2 2 0.891 0.899
8 0.895 8 8 0.891 0.899
EOD
$d0 << EOD
2 0.85 2 2 0.846 0.854
4 0.8649999999999999 4 4 0.8609999999999999 0.8689999999999999
8 0.88 8 8 0.876 0.884
EOD
$r0 << EOD
2 0.85 2 2 0.846 0.854
4 0.8649999999999999 4 4 0.8609999999999999 0.8689999999999999
8 0.88 8 8 0.876 0.884
EOD
$d1 << EOD
2 0.835 2 2 0.831 0.839
4 0.85 4 4 0.846 0.854
8 0.8649999999999999 8 8 0.8609999999999999 0.8689999999999999
EOD
$r1 << EOD
2 0.835 2 2 0.831 0.839
4 0.85 4 4 0.846 0.854
8 0.8649999999999999 8 8 0.8609999999999999 0.8689999999999999
EOD
plot $d2 using 1:2 with lines linewidth 1.5 dashtype 4 linecolor rgb '#009E73' title 'Full fine-tuning', \
     $r0 using 1:2:5:6 with yerrorbars pointtype 0 linewidth 1.5 linecolor rgb '#0072B2' notitle, \
     $d0 using 1:2 with linespoints pointtype 7 pointsize 0.9 linewidth 2 dashtype 1 linecolor rgb '#0072B2' title 'lora', \
     $r1 using 1:2:5:6 with yerrorbars pointtype 0 linewidth 1.5 linecolor rgb '#D55E00' notitle, \
     $d1 using 1:2 with linespoints pointtype 5 pointsize 0.9 linewidth 2 dashtype 1 linecolor rgb '#D55E00' title 'qlora'
